"""Use and memory of the GPUs of this machine, read from the driver at each scrape if `pynvml` is installed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any


@functools.cache
def _driver() -> Any:
    """NVML, initialised once; None without the package or a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


class Gpus:
    """A collector for prometheus_client. The figures are those of the whole machine, not of one process."""

    def collect(self) -> Iterator[Any]:
        """The metric families; none without a GPU. A figure that a GPU does not report is left out."""
        from prometheus_client.core import GaugeMetricFamily

        driver = _driver()
        if driver is None:
            return
        labels = ("gpu", "name")
        use = GaugeMetricFamily("penstock_gpu_utilization_ratio", "Share of time in which it ran.", labels=labels)
        used = GaugeMetricFamily("penstock_gpu_memory_used_bytes", "Memory of the GPU in use.", labels=labels)
        total = GaugeMetricFamily("penstock_gpu_memory_total_bytes", "Memory of the GPU.", labels=labels)
        for index in range(driver.nvmlDeviceGetCount()):
            with contextlib.suppress(driver.NVMLError):  # one that was lost
                gpu = driver.nvmlDeviceGetHandleByIndex(index)
                of = (str(index), _text(driver.nvmlDeviceGetName(gpu)))
                memory = driver.nvmlDeviceGetMemoryInfo(gpu)
                used.add_metric(of, memory.used)
                total.add_metric(of, memory.total)
                use.add_metric(of, driver.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)  # not with MIG
        yield from (use, used, total)


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
