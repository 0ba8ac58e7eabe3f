"""A containerd in memory, for the tests of programs that use containerd."""

from containerd_aio.testing.fake.call import Call
from containerd_aio.testing.fake.daemon import FakeContainerd
from containerd_aio.testing.fake.event_faults import EventFault
from containerd_aio.testing.fake.fates import Fate, Program
from containerd_aio.testing.fake.process import FakeProcess
from containerd_aio.testing.fake.rpc_faults import Hold, RPCFault
from containerd_aio.testing.fake.task import FakeTask

__all__ = [
    "Call",
    "EventFault",
    "FakeContainerd",
    "FakeProcess",
    "FakeTask",
    "Fate",
    "Hold",
    "Program",
    "RPCFault",
]
