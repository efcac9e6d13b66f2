"""Ray itself: workers and the command killed at random moments, two nodes, 1,000 images; minutes long, so slow."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from coco_files import detected_dataset

import detxai.coco
from detxai.coco.schema import TIMED
from detxai.runs.tables import import_pyarrow

pytest.importorskip("pyarrow")
pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")]

MODEL = f"{Path(__file__).parents[1] / 'faster_rcnns.py'}:small_faster_rcnn"
WORKER = "ray::MapWorker"
SECONDS = 1800  # after which a run hangs
EXPLAINING = ["--method", "d_rise", "--set", "n_masks=16", "--worst", 48, "--map-stride", 4, "--rows-per-part", 4]
EXPLAINING += ["--no-report"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return detected_dataset(tmp_path_factory.mktemp("coco"), n_images=8)


@pytest.fixture(scope="module")
def local(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "local"
    done = command(data, out)
    assert done.wait(SECONDS) in (0, 1), read(done)
    return out


def command(data: Mapping[str, Path | str], out: Path | str, *more: str) -> subprocess.Popen[str]:
    """A run in a process of its own: D-RISE, so that workers are killed while they explain."""
    given: list[object] = ["coco", "--model", MODEL, "--images", data["images"], "--annotations", data["annotations"]]
    given += ["--out", out, *EXPLAINING]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "detxai", *map(str, given), *more]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.read()


def on_ray(data: Mapping[str, Path | str], out: Path | str, *more: str) -> subprocess.Popen[str]:
    return command(data, out, "--engine", "ray", "--workers", "2", *more)


def rows(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in detxai.coco.load(out).rows()]


def failures(out: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = import_pyarrow().parquet.read_table(out / "failures.parquet").to_pylist()
    return content


def n_parts(out: Path) -> int:
    return len(list((out / "explanations").glob("part-*.parquet")))


def descendants(root: int) -> list[int]:
    """The processes that ``root`` has started, and they in turn."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = [root]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    found = []
    for number in descendants(process.pid):
        try:
            title = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(WORKER.encode()):
            found.append(number)
    return found


def test_workers_killed_at_five_random_moments(local: Path, data: dict[str, Path], tmp_path: Path) -> None:
    out, chance, killed = tmp_path / "out", random.Random(0), 0
    process = on_ray(data, out)
    while process.poll() is None and killed < 5:
        time.sleep(chance.uniform(0.5, 3))
        workers = workers_of(process) if n_parts(out) else []  # before that, the model is built in the killed ones
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            killed += 1
    assert process.wait(SECONDS) in (0, 1), read(process)
    assert killed == 5, read(process)
    assert rows(out) == rows(local)
    assert failures(out) == failures(local)


def test_the_command_killed_at_three_random_moments(local: Path, data: dict[str, Path], tmp_path: Path) -> None:
    out, chance, parts = tmp_path / "out", random.Random(1), []
    for wanted in (1, 3, 6):
        process = on_ray(data, out)
        while process.poll() is None and n_parts(out) < wanted:
            time.sleep(0.1)
        time.sleep(chance.uniform(0, 3))
        started = descendants(process.pid)
        process.kill()
        process.wait()
        parts.append(n_parts(out))
        deadline = time.monotonic() + 180  # two of Ray's agents try for a minute to tell its dead store that they end
        while any(is_alive(number) for number in started) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not [number for number in started if is_alive(number)]  # Ray goes with the command that started it
    assert sorted(parts) == parts
    process = on_ray(data, out)
    assert process.wait(SECONDS) in (0, 1), read(process)
    assert rows(out) == rows(local)
    assert failures(out) == failures(local)


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_ctrl_c_stops_it_and_it_goes_on(local: Path, data: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = on_ray(data, out)
    while process.poll() is None and not n_parts(out):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130, read(process)
    process = on_ray(data, out)
    assert process.wait(SECONDS) in (0, 1), read(process)
    assert rows(out) == rows(local), read(process)


def test_images_and_output_at_an_address(local: Path, data: dict[str, Path], tmp_path: Path) -> None:
    images, out = (f"file://{path.as_posix()}" for path in (data["images"], tmp_path / "out"))
    process = on_ray({**data, "images": images}, out)
    assert process.wait(SECONDS) in (0, 1), read(process)
    assert rows(tmp_path / "out") == rows(local)


LISTENING = """
import subprocess, sys
from pathlib import Path
from detxai.coco.on_ray.cluster import connected
from detxai.coco.options import RayOptions
with connected(RayOptions(), 1):
    from test_coco_ray_stopping import descendants
    import os
    inodes = set()
    for number in [os.getpid(), *descendants(os.getpid())]:
        for fd in Path(f"/proc/{number}/fd").glob("*"):
            try:
                target = os.readlink(fd)
            except OSError:
                continue
            if target.startswith("socket:"):
                inodes.add(target[8:-1])
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                print("LISTENS", fields[1].rpartition(":")[0])
"""


def test_a_ray_of_its_own_listens_on_this_machine_alone() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", LISTENING], env=environment, capture_output=True, text=True, check=True
    )
    addresses = set(re.findall(r"LISTENS (\w+)", done.stdout))
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


CLUSTER = """
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray.cluster_utils import Cluster
for _ in range(3):  # on a busy machine Ray gives up on its own processes
    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        break
    except Exception as error:
        print(error)
cluster.add_node(num_cpus=1)
from detxai.cli import main
code = main([*sys.argv[1:], "--engine", "ray", "--address", cluster.address])
nodes = {node["NodeID"] for node in ray.nodes()} if ray.is_initialized() else set()
print("EXIT", code)
cluster.shutdown()
"""


def test_a_cluster_of_two_nodes(local: Path, data: dict[str, Path], tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces are not allowed here")
    out = tmp_path / "out"
    given: list[object] = ["coco", "--model", MODEL, "--images", data["images"], "--annotations", data["annotations"]]
    given += ["--out", out, *EXPLAINING]
    (tmp_path / "cluster.py").write_text(CLUSTER)
    inside = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, tmp_path / "cluster.py", *given]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [unshare, "-n", *map(str, inside)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert re.search(r"EXIT [01]$", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert rows(out) == rows(local)
    assert failures(out) == failures(local)
