import gc
import sys

if "penstock.cli.main" in sys.orig_argv:  # guarded before that module is compiled
    from penstock.cli.interrupts import guard

    guard()
    gc.disable()  # as in penstock.__main__
