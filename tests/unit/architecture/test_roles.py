# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles: the argument spec tells the truth, variables keep to their role, and roles meet only in playbooks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables
from jinja2.nativetypes import NativeEnvironment

from ansible_collections.dbops.fleet.tests.support.house import (
    CHECKOUT,
    load_yaml,
    relative,
    role_names,
    task_files,
    tasks_in,
)

ROLES = role_names()

# Task keywords whose text is an expression without braces.
EXPRESSIONS = ("when", "that", "until", "failed_when", "changed_when", "var")

# What Ansible itself defines, for tasks and for templates.
MAGIC = set(
    "ansible_check_mode ansible_diff_mode ansible_facts ansible_failed_result ansible_failed_task ansible_host"
    " ansible_loop ansible_managed ansible_play_batch ansible_play_hosts ansible_play_hosts_all ansible_version groups"
    " hostvars inventory_hostname inventory_hostname_short item lookup now omit playbook_dir q query role_name"
    " role_path undef template_host template_path".split()
)


def defaults(role: str) -> dict[str, Any]:
    return load_yaml(CHECKOUT / "roles" / role / "defaults" / "main.yml") or {}


def constants(role: str) -> dict[str, Any]:
    """Internal variables of a role: everything in vars/."""
    merged: dict[str, Any] = {}
    for path in (CHECKOUT / "roles" / role / "vars").glob("*.yml"):
        merged.update(load_yaml(path) or {})
    return merged


def specs(role: str) -> dict[str, Any]:
    return (load_yaml(CHECKOUT / "roles" / role / "meta" / "argument_specs.yml") or {}).get("argument_specs", {})


def options(role: str) -> dict[str, Any]:
    """Options of all entry points; the same variable may be in several."""
    merged: dict[str, Any] = {}
    for entry_point in specs(role).values():
        merged.update(entry_point.get("options", {}))
    return merged


def is_template(value: Any) -> bool:
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def render(value: Any) -> Any:
    """A default as it is when the inventory sets nothing. What depends on host or controller stays a template."""
    if not is_template(value) or names_used(value, value) & MAGIC:
        return value
    try:
        return NativeEnvironment().from_string(value).render()
    except (TemplateError, TypeError):
        return value


class Permissive(dict[str, Any]):
    """Filters or tests of Jinja, where a name that only Ansible knows is no error."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, default or (lambda value, *_args, **_keywords: value))


def ansible_environment() -> Environment:
    environment = Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])
    environment.filters = Permissive(environment.filters)
    environment.tests = Permissive(environment.tests)
    return environment


JINJA = ansible_environment()


def names_used(text: str, where: str) -> set[str]:
    """Variables that a text of Jinja reads and does not make itself."""
    if not is_template(text):
        return set()
    try:
        tree = JINJA.parse(text)
    except TemplateSyntaxError as error:
        raise AssertionError(f"{where}: {error}") from error
    # Jinja counts a block set inside of an `if` as undeclared.
    made = {name.name for name in tree.find_all(nodes.Name) if name.ctx in ("store", "param")}
    return find_undeclared_variables(tree) - made


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_an_argument_spec_for_each_entry_point(role: str) -> None:
    assert "main" in specs(role)
    for entry_point, spec in specs(role).items():
        assert (CHECKOUT / "roles" / role / "tasks" / f"{entry_point}.yml").is_file(), entry_point
        assert spec.get("short_description"), entry_point


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_spec_have_the_same_variables(role: str) -> None:
    with_default = {name for name, option in options(role).items() if not without_default(option)}
    assert with_default == set(defaults(role))


def without_default(option: dict[str, Any]) -> bool:
    return "default" not in option


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_spec_have_the_same_values(role: str) -> None:
    values = defaults(role)
    different = {
        name: {"defaults/main.yml": values[name], "argument_specs.yml": option["default"]}
        for name, option in options(role).items()
        if name in values and not without_default(option)
        # A template may be repeated or stand in the spec as what it comes to when the inventory sets nothing.
        if not any(
            type(option["default"]) is type(value) and option["default"] == value
            for value in (values[name], render(values[name]))
        )
    }
    assert not different


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_of_the_type_that_the_argument_spec_says(role: str) -> None:
    spec = {name: clean(option) for name, option in options(role).items()}
    wrong = {}
    for name, value in defaults(role).items():
        rendered = render(value)
        if name not in spec or is_template(rendered):
            continue
        only = {key: part for key, part in spec[name].items() if key != "required"}
        result = ArgumentSpecValidator({name: only}).validate({name: rendered})
        # int("5") would pass the validator: values have to be written in their own type.
        if result.error_messages or result.validated_parameters[name] != rendered:
            wrong[name] = result.error_messages or f"{rendered!r} is no {only.get('type', 'str')}"
    assert not wrong


def clean(option: dict[str, Any]) -> dict[str, Any]:
    """An option as ArgumentSpecValidator knows it: without what is only documentation."""
    kept = {key: value for key, value in option.items() if key not in ("description", "version_added", "default")}
    if "options" in kept:
        kept["options"] = {name: clean(part) for name, part in kept["options"].items()}
    return kept


@pytest.mark.parametrize("role", ROLES)
def test_variables_without_default_stand_as_comments_in_defaults(role: str) -> None:
    path = CHECKOUT / "roles" / role / "defaults" / "main.yml"
    text = path.read_text() if path.exists() else ""
    missing = [
        name
        for name, option in options(role).items()
        if without_default(option) and not re.search(rf"^# {name}:", text, flags=re.MULTILINE)
    ]
    assert not missing, f"roles/{role}/defaults/main.yml has no line '# NAME: ...' about {missing}"


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_described_and_typed(role: str) -> None:
    poor = [name for name, option in options(role).items() if not option.get("description") or not option.get("type")]
    assert not poor


@pytest.mark.parametrize("role", ROLES)
def test_names_of_variables_begin_with_the_role(role: str) -> None:
    public = [name for name in defaults(role) if not name.startswith(f"{role}_")]
    internal = [name for name in constants(role) if not name.startswith(f"__{role}_")]
    assert not public, "defaults/ holds <role>_*"
    assert not internal, "vars/ holds __<role>_*"


def texts(value: Any) -> list[str]:
    """Every Jinja text of a task's value; expressions get the braces that Ansible leaves out."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    if isinstance(value, dict):
        found = []
        for key, item in value.items():
            if key in EXPRESSIONS:
                found += ["{{ " + text + " }}" if not is_template(text) else text for text in texts(item)]
            else:
                found += texts(item)
        return found
    return []


def templates(role: str) -> list[Path]:
    return [path for path in (CHECKOUT / "roles" / role / "templates").rglob("*") if path.is_file()]


def role_task_files(role: str) -> list[Path]:
    return [path for path in task_files() if path.is_relative_to(CHECKOUT / "roles" / role)]


def uses(role: str) -> dict[str, str]:
    """Variables that a role's tasks, templates and constants read, each with one place where it does."""
    found: dict[str, str] = {}
    for path in role_task_files(role):
        for text in texts(load_yaml(path)):
            found.update(dict.fromkeys(names_used(text, relative(path)), relative(path)))
    for path in templates(role):
        found.update(dict.fromkeys(names_used(path.read_text(), relative(path)), relative(path)))
    for name, value in constants(role).items():
        for text in texts(value):
            found.update(dict.fromkeys(names_used(text, name), f"roles/{role}/vars: {name}"))
    return found


def set_in_tasks(role: str) -> set[str]:
    """Variables that a role's own tasks make: registered, set, loop variables, and those given to includes.

    `ansible_become` is Ansible's own: see test_tasks.py.
    """
    made: set[str] = set()
    for path in role_task_files(role):
        for task in tasks_in(path):
            made |= set(task.body.get("vars", {})) - {"ansible_become"}
            loop = task.body.get("loop_control", {})
            made |= {loop[key] for key in ("loop_var", "index_var") if key in loop}
            made |= {task.body["register"]} if isinstance(task.body.get("register"), str) else set()
            made |= set(task.body.get("register") or {}) if isinstance(task.body.get("register"), dict) else set()
            made |= set(task.body.get("ansible.builtin.set_fact", {})) - {"cacheable"}
    return made


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reads_only_variables_of_its_own(role: str) -> None:
    known = MAGIC | set(options(role)) | set(constants(role)) | set_in_tasks(role)
    foreign = {name: where for name, where in uses(role).items() if name not in known}
    assert not foreign, f"fleet_* belongs into defaults/; everything else into defaults/ or vars/: {foreign}"


@pytest.mark.parametrize("role", ROLES)
def test_no_option_of_a_role_does_nothing(role: str) -> None:
    used = set(uses(role))
    for value in defaults(role).values():
        used |= {name for text in texts(value) for name in names_used(text, role)}
    assert not set(options(role)) - used


@pytest.mark.parametrize("role", ROLES)
def test_a_default_reads_only_fleet_knobs_and_variables_of_its_own(role: str) -> None:
    wrong = {
        name: used
        for name, value in defaults(role).items()
        for text in texts(value)
        for used in names_used(text, name)
        if not used.startswith("fleet_")
        and used not in MAGIC
        and used not in defaults(role)
        and used not in constants(role)
    }
    assert not wrong


@pytest.mark.parametrize("role", ROLES)
def test_no_playbook_has_a_variable_by_the_name_of_a_roles_constant(role: str) -> None:
    # An imported role's vars/ win over the play's from then on.
    for path in (CHECKOUT / "playbooks" / "vars").glob("*.yml"):
        assert not set(load_yaml(path)) & set(constants(role)), relative(path)


@pytest.mark.parametrize("role", ROLES)
def test_what_tasks_make_is_internal(role: str) -> None:
    wrong = [name for name in set_in_tasks(role) if not name.startswith(f"__{role}_")]
    public = set(options(role))
    # Variables given to an included task file of the role itself may be public ones.
    assert not [name for name in wrong if name not in public]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_includes_no_other_role(role: str) -> None:
    meta = load_yaml(CHECKOUT / "roles" / role / "meta" / "main.yml") or {}
    assert not meta.get("dependencies")
    for path in role_task_files(role):
        for task in tasks_in(path):
            for keyword in ("ansible.builtin.include_role", "ansible.builtin.import_role"):
                assert keyword not in task.body, f"{task}: roles meet only in playbooks"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_knows_no_group_of_the_inventory(role: str) -> None:
    literal = re.compile(
        r"""groups\s*(?:\[\s*['"]|\.(?!get\(|keys\(|items\()\w)|groups\.get\(\s*['"]|['"]\s+in\s+group_names"""
    )
    for path in [*role_task_files(role), *templates(role), *(CHECKOUT / "roles" / role / "defaults").glob("*.yml")]:
        found = literal.findall(path.read_text())
        assert not found, f"{relative(path)}: take the hosts or the group's name as a variable"
