"""Public fakes and contract tests, for those who build on the project or add a backend.

Shipped with the package; what makes a CA or a site work never imports it, only tests, demonstrations and benchmarks do.
"""

from mtc.testing.clock import FakeClock
from mtc.testing.disk import Crash, ModelDisk, ModelRegister
from mtc.testing.failing import FailingRegister, FailingStore, Failure, InjectedError
from mtc.testing.store_contract import check_object_store, check_register

__all__ = [
    "Crash",
    "FailingRegister",
    "FailingStore",
    "Failure",
    "FakeClock",
    "InjectedError",
    "ModelDisk",
    "ModelRegister",
    "check_object_store",
    "check_register",
]
