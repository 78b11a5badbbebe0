"""Which machine, which software and which day a number belongs to: the columns that every row of every CSV carries."""
import datetime
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

COLUMNS = ("machine", "cpu", "cores", "gpu", "python", "torch", "triton", "date")

# What a processor's name holds beside the name by which people know it.
NOISE = re.compile(r"\((r|tm|c)\)|@.*|\b(amd|intel|nvidia|geforce|apple|cpu|processor|core|\d+-core|\d+gb|hbm\w*|pcie"
                   r"|sxm\w*|laptop|graphics)\b", re.IGNORECASE)


def stamp(device: torch.device) -> dict[str, str | int]:
    """The stamp of a measurement on `device`, today; `gpu` is empty where none computed."""
    cpu, cores = cpu_name(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"machine": slug(gpu) if gpu else f"{slug(cpu)}-{cores}-core{'s' * (cores > 1)}", "cpu": cpu, "cores": cores,
            "gpu": gpu, "python": platform.python_version(), "torch": torch.__version__,
            "triton": installed("triton"), "date": datetime.date.today().isoformat()}


def slug(name: str) -> str:
    """A processor's name as a folder's: "NVIDIA H100 80GB HBM3" -> "h100", "AMD EPYC" -> "epyc"."""
    words = NOISE.sub(" ", name.replace("-SXM", " SXM").replace("-PCIE", " PCIE"))
    return "-".join(re.findall(r"[a-z0-9]+", words.lower())) or "unknown"


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
