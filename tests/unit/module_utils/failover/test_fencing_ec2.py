# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence of EC2 instances, against moto's EC2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing import CONFIRMED, UNCONFIRMED
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_ec2 import fence_ec2

REGION = "eu-central-1"


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        yield boto3.client("ec2", region_name=REGION)


@pytest.fixture
def instance(ec2: Any) -> str:
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)
    return str(made["Instances"][0]["InstanceId"])


def state(ec2: Any, instance: str) -> str:
    found = ec2.describe_instances(InstanceIds=[instance])
    return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])


def test_a_running_instance_is_stopped_and_seen_stopped(ec2: Any, instance: str) -> None:
    rung = fence_ec2(instance, REGION, timeout=5)
    assert rung.status == CONFIRMED
    assert "its state is stopped" in rung.evidence
    assert state(ec2, instance) == "stopped"


def test_an_instance_that_is_stopped_already_is_confirmed(ec2: Any, instance: str) -> None:
    ec2.stop_instances(InstanceIds=[instance])
    assert fence_ec2(instance, REGION, timeout=5).status == CONFIRMED


def test_an_instance_that_does_not_exist_is_not_confirmed(ec2: Any) -> None:
    rung = fence_ec2("i-0123456789abcdef0", REGION, timeout=1)
    assert rung.status == UNCONFIRMED
    assert "could not be stopped" in rung.evidence[0]


class Stubborn:
    """Accepts the order, and goes on running; or lets nobody ask."""

    def __init__(self, ec2: Any, error: Exception | None = None) -> None:
        self.ec2, self.error, self.orders = ec2, error, []  # type: ignore[var-annotated]

    def stop_instances(self, **order: Any) -> dict[str, Any]:
        self.orders.append(order)
        return {}

    def describe_instances(self, **which: Any) -> Any:
        if self.error:
            raise self.error
        return self.ec2.describe_instances(**which)


def test_f05_an_order_that_was_accepted_without_effect_is_not_confirmed(ec2: Any, instance: str) -> None:
    stubborn = Stubborn(ec2)
    rung = fence_ec2(instance, REGION, timeout=0.1, client=stubborn)
    assert rung.status == UNCONFIRMED
    assert "its state is running" in rung.evidence[-1]
    assert stubborn.orders == [{"InstanceIds": [instance], "Force": True}]


def test_a_state_that_cannot_be_read_is_not_confirmed(ec2: Any, instance: str) -> None:
    rung = fence_ec2(instance, REGION, timeout=0.1, client=Stubborn(ec2, OSError("no network")))
    assert rung.status == UNCONFIRMED
    assert "no network" in rung.evidence[-1]


def test_a_controller_without_boto3_is_told_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    rung = fence_ec2("i-0123456789abcdef0", REGION, timeout=5)
    assert rung.status == UNCONFIRMED
    assert "has no boto3" in rung.evidence[0]
    assert "pip install boto3" in rung.evidence[1]
