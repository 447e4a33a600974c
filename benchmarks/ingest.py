"""Ingest of many small files: seconds a file and memory, and whether memory grows with their number.

    python benchmarks/ingest.py [--files 10000] [--side 12] [--layouts folders flat dicom]

Generates files of side^3 voxels and ingests a tenth of them and then all of them, each in a process of its own, and a
third time when nothing is new. Layouts: "folders" has two files a patient (NIfTI that can be linked, NRRD that must be
written anew, one broken in fifty), "flat" the same in one folder, "dicom" series of 8 slices, so eight files a scan.
Memory is the peak of the process with its threads, what of it the imports do not take, and the peak of the largest
process that reads scans for it (seen every tenth of a second; Linux). CPU is that of all of them. The mark is flat
memory: with ten times the files each may take at most 10 % more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

_GROWTH = 1.10
_SLICES = 8
_HTML_MB = 5.0  # a page of more is slow to open


def main() -> int:
    """Run and print the table and the JSON line; 1 if memory is not flat or a count is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="how many (default 10000)")
    parser.add_argument("--side", type=int, default=12, help="voxels along each side (default 12)")
    parser.add_argument("--layouts", nargs="+", default=["folders", "flat", "dicom"], help="which (default all)")
    parser.add_argument("-np", type=int, default=2, help="threads (default 2)")
    parser.add_argument("--job", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        _job(*arguments.job, arguments.np)
        return 0
    print(
        f"{'layout':<8} {'run':<10} {'files':>7} {'taken':>6} {'refused':>8} {'ms a file':>10} {'of CPU':>7} "
        f"{'peak MB':>8} {'of it ours':>11} {'reader MB':>10} {'HTML MB':>8}"
    )
    runs = [run for layout in arguments.layouts for run in _layout(layout, arguments)]
    good = all(run["good"] for run in runs)
    print(json.dumps({"benchmark": "ingest", "side": arguments.side, "runs": runs, "flat": good}))
    return 0 if good else 1


def _layout(layout: str, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Three runs of one layout, printed as they end."""
    runs: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        few = max(20, arguments.files // 10)
        _generate(folder / "few", few, arguments.side, layout)
        _generate(folder / "all", arguments.files, arguments.side, layout)
        for name, source, dataset in (
            ("a tenth", "few", "Dataset001_Few"),
            ("all", "all", "Dataset002_All"),
            ("all again", "all", "Dataset002_All"),
        ):
            # each data set in a raw folder of its own: leakage is not what is measured
            run = _measure(name, folder / source, folder / f"raw_{source}" / dataset, arguments.np)
            tenth = runs[0] if runs else run
            scans = run["files"] // _SLICES if layout == "dicom" else run["files"]
            run["right"] = run["taken"] + run["refused"] == scans and run["refused"] == -(-run["files"] // 50) * (
                layout != "dicom"
            )
            flat = all(run[key] <= _GROWTH * tenth[key] for key in ("peak_mb", "reader_mb"))
            run["good"] = bool(run["right"] and flat and run["html_mb"] < _HTML_MB)
            runs.append({"layout": layout, **run})
            times = f"{run['ms_a_file']:>10.2f} {run['cpu_ms_a_file']:>7.2f}"
            memory = f"{run['peak_mb']:>8.1f} {run['ours_mb']:>11.1f} {run['reader_mb']:>10.1f} {run['html_mb']:>8.2f}"
            counts = f"{run['files']:>7} {run['taken']:>6} {run['refused']:>8}"
            odd = "" if run["good"] else "  not as it should be"
            print(f"{layout:<8} {name:<10} {counts} {times} {memory}{odd}", flush=True)
    return runs


def _generate(folder: Path, count: int, side: int, layout: str) -> None:
    import nibabel
    import SimpleITK

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(0, count, _SLICES) if layout == "dicom" else ():
        _series(folder, number, rng.integers(0, 1000, (_SLICES, side, side)).astype(np.uint16))
    for number in range(count if layout != "dicom" else 0):
        patient = folder / f"p{number // 2:05d}" if layout == "folders" else folder
        patient.mkdir(parents=True, exist_ok=True)
        voxels = rng.integers(0, 1000, (side, side, side)).astype(np.int16)
        name = f"t{1 + number % 2}" if layout == "folders" else f"scan{number:05d}"
        if number % 2:
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(patient / f"{name}.nrrd"), True)
            continue
        path = patient / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
        if number % 50 == 0:
            path.write_bytes(path.read_bytes()[:-100])


def _series(folder: Path, number: int, voxels: np.ndarray) -> None:
    """One series; the files of all series lie in folders of a hundred, as archives hand them out."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    for place, pixels in enumerate(voxels):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}.{place + 1}"
        path = folder / f"{number // 800:03d}" / f"IM{number + place:05d}"
        path.parent.mkdir(exist_ok=True)
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"1.2.3.{number}.8", f"1.2.3.{number}.9"
        dataset.PatientID, dataset.Modality = f"{number}", "MR"
        dataset.ImageOrientationPatient, dataset.PixelSpacing = [1, 0, 0, 0, 1, 0], [1, 1]
        dataset.ImagePositionPatient = [0, 0, place]
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(path, enforce_file_format=True)


def _measure(name: str, source: Path, dataset: Path, workers: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "-np", str(workers), "--job", str(source), str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"run": name, **json.loads(done.stdout.splitlines()[-1])}


class Descendants:
    """What the processes below this one take, by looking every tenth of a second.

    Attributes:
        peak_mb: of the largest.
    """

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._ticks: dict[int, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def cpu_seconds(self) -> float:
        """Of all, together."""
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Descendants:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            parents = {}
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # it has ended
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    parents[int(folder.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]))
            below = {os.getpid()}
            while more := {pid for pid, (parent, _) in parents.items() if parent in below} - below:
                below |= more
            for pid in below - {os.getpid()}:
                self._ticks[pid] = parents[pid][1]
                with suppress(OSError):
                    status = Path(f"/proc/{pid}/status").read_text()
                    kilobytes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
                    self.peak_mb = max([self.peak_mb, *(int(each) / 1024 for each in kilobytes)])


def _job(source: Path, dataset: Path, workers: int) -> None:
    """One ingest in this process; prints what it took."""
    import nibabel  # noqa: F401  imports are no part of what is measured
    import PIL.Image
    import pydicom
    import SimpleITK  # noqa: F401

    from nnssl.ingest.run import Request, ingest

    PIL.Image.init(), pydicom.__version__
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, working = time.perf_counter(), time.process_time()
    with Descendants() as readers:
        outcome = ingest(Request(sources=(source,), folder=dataset, workers=workers), lambda sentence: None)
    seconds = time.perf_counter() - begin
    cpu_seconds = time.process_time() - working + readers.cpu_seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    html = outcome.report / "report.html" if outcome.report else None
    files = sum(len(names) for _, _, names in os.walk(source))
    print(
        json.dumps(
            {
                "files": files,
                "taken": len(outcome.taken),
                "refused": len(outcome.refused),
                "ms_a_file": 1000 * seconds / files,
                "cpu_ms_a_file": 1000 * cpu_seconds / files,
                "peak_mb": peak / 1024,
                "ours_mb": (peak - before) / 1024,
                "reader_mb": readers.peak_mb,
                "html_mb": html.stat().st_size / 1e6 if html else 0,
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
