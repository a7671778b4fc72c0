# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence of an EC2 instance: stopped by force, and seen stopped."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing import CONFIRMED, UNCONFIRMED, Rung

# A terminated instance cannot come back; a stopped one only by somebody's command.
_OFF = ("stopped", "terminated")


def fence_ec2(instance_id: str, region: str, *, timeout: float = 120.0, client: Any = None) -> Rung:
    """Stop an instance by force and poll its state.

    Args:
        instance_id: such as i-0123456789abcdef0.
        region: of AWS.
        timeout: seconds. Stopping takes EC2 a few seconds to minutes, even by force.
        client: of boto3, for callers who have one; credentials are found as boto3 does.
    """
    if client is None and importlib.util.find_spec("boto3") is None:
        missing = f"{instance_id} could not be stopped: the controller's Python ({sys.executable}) has no boto3"
        return Rung("ec2", UNCONFIRMED, (missing, "install it there: pip install boto3"))
    try:
        ec2 = client or _client(region)
        ec2.stop_instances(InstanceIds=[instance_id], Force=True)
        evidence = f"stop-instances --force {instance_id} was accepted"
    except Exception as error:  # botocore's errors, which need not be importable here
        return Rung("ec2", UNCONFIRMED, (f"{instance_id} could not be stopped: {error}",))
    deadline = time.monotonic() + timeout
    state = "unknown"
    while True:
        try:
            found = ec2.describe_instances(InstanceIds=[instance_id])
            state = found["Reservations"][0]["Instances"][0]["State"]["Name"]
        except Exception as error:
            state = f"unknown ({error})"
        if state in _OFF:
            return Rung("ec2", CONFIRMED, (evidence, f"its state is {state}"))
        if time.monotonic() >= deadline:
            return Rung("ec2", UNCONFIRMED, (evidence, f"its state is {state} after {timeout:g} s"))
        time.sleep(1.0)


def _client(region: str) -> Any:
    import boto3
    from botocore.config import Config

    quick = Config(connect_timeout=3, read_timeout=5, retries={"max_attempts": 2})
    return boto3.client("ec2", region_name=region, config=quick)
