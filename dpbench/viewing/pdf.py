"""The page as a PDF, printed by whichever browser of Chromium's kind is on the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from dpbench.errors import DpbenchError
from dpbench.machine.writing import write_atomically

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
    "microsoft-edge",
)
SECONDS = 120


def browser() -> str:
    """Path of the first of `BROWSERS` that is there.

    Raises:
        DpbenchError: none is.
    """
    for name in BROWSERS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise DpbenchError(
        "a PDF is printed by Chromium or Chrome, and none was found; install one (`apt-get install chromium`), or open "
        "report.html in any browser and print it"
    )


def write_pdf(page: Path, output: Path) -> None:
    """Print a page to A4.

    Args:
        page: an HTML file.
        output: where the PDF goes; written whole, or not at all.

    Raises:
        DpbenchError: no browser, or it prints nothing.
    """
    program = browser()

    def printed(path: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="dpbench-", ignore_cleanup_errors=True) as profile:
            command = [program, "--headless=new", "--disable-gpu", f"--user-data-dir={profile}"]
            command += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # it refuses root else
            command += ["--no-pdf-header-footer", "--run-all-compositor-stages-before-draw"]
            command += ["--virtual-time-budget=20000", f"--print-to-pdf={path}", f"{page.resolve().as_uri()}#print"]
            try:
                done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise DpbenchError(f"{program} did not print {page}: {error}") from error
        if not path.is_file() or not path.read_bytes().startswith(b"%PDF"):
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise DpbenchError(f"{program} did not print {page}: {said[-1] if said else f'status {done.returncode}'}")

    write_atomically(output, printed)
