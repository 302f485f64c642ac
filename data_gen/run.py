"""Doing the work of a plan: each unit from its source through the stages into a tar, by any number of processes.

A process claims a unit by a lock that dies with it, makes it in memory and writes it whole, manifest last. So the
processes of one machine and the tasks of an array, however many and however often they are killed, share one
plan without knowing of each other, and the same command again makes what is missing, nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_gen.config import DataConfig
from data_gen.finish import layout, missing_shards, pack, units_of
from data_gen.plan import Parts, Plan, Unit, check_versions, first_writes, freeze, make_parts, read_plan, source_class
from data_gen.report import forget, is_reported, write_report
from data_gen.samples import SPLITS, Dropped, SubjectSet
from data_gen.shards import NO_SPACE, Record, encode, thumbnail, write_shard
from jedi.errors import InputError, one_line
from jedi.io.config import ConfigError
from jedi.io.files import FolderInUse, locked, remove_leftovers, write_json

EXAMPLES = 8
"""Dropped sets whose images a unit keeps for the report, for each reason."""
_ENCODERS = 8  # threads that write PNGs, which Pillow does beside Python


class RunError(InputError):
    """The work could not continue (no space, a dead worker); what is done is kept, the same command resumes."""

    status = 1


def prompts(config: DataConfig) -> Iterator[str]:
    """Writes the prompts and yields what came of it. Raises ConfigError where the source reads none."""
    if not source_class(config).reads_prompts:
        raise ConfigError(f"source {config.source!r} reads no prompts")
    from data_gen.prompts import write_prompts

    with _locked_folder(config), clear_errors(config):
        written = write_prompts(config.prompts, Path(config.out), config.seed)
    yield f"{config.out}/prompts.json: {len(written.subjects)} subjects"
    yield from (f"{name}: {count}" for name, count in written.counts.items())


def prepare(config: DataConfig) -> Plan:
    """The plan, frozen if it is not yet; the prompts before it, where the source reads prompts."""
    if source_class(config).reads_prompts and read_plan(config) is None:
        list(prompts(config))
    with clear_errors(config):
        return freeze(config)


@contextlib.contextmanager
def _locked_folder(config: DataConfig) -> Iterator[None]:
    """The output folder, for this process alone. ConfigError where it cannot be made."""
    with clear_errors(config), first_writes(config):
        Path(config.out).mkdir(parents=True, exist_ok=True)
    with locked(config.out):
        yield


def run(config: DataConfig) -> None:
    """Everything that is missing: prompts, plan, units, shards, report. Running it again makes what is lost.

    Raises ConfigError (a senseless or changed configuration) or RunError (the work could not continue).
    """
    plan = prepare(config)
    with locked(config.out), clear_errors(config):
        make_units(config, plan, [unit for unit in plan.units if plan.manifest(unit) is None])
        # Of lost shards, the units whose tars were cleared away are made again.
        lost = missing_shards(plan, layout(config, plan)[0])
        again = [unit for unit in units_of(plan, lost) if not plan.tar(unit).is_file()]
        make_units(config, plan, again, again=True)
        finish(config, plan)


def finish(config: DataConfig, plan: Plan) -> None:
    """Packs what is missing and reports on it, then clears the units' tars away unless `keep_units`. Raises ConfigError
    where units are not done, or a tar is gone or damaged."""
    shards, duplicates = layout(config, plan)
    for name in ("", *SPLITS, "units", "report", "logs"):
        remove_leftovers(plan.out / name)
    if missing_shards(plan, shards) or not is_reported(config):
        forget(config)
        pack(config, plan, shards, duplicates)
        write_report(config, plan)
    if not config.keep_units:
        for unit in plan.units:
            plan.tar(unit).unlink(missing_ok=True)


def run_part(config: DataConfig, index: int, count: int) -> int:
    """The units that are missing, from part `index` of `count` on: one task of an array. Returns how many are
    still not done, because other tasks are at work on them. Raises as `run`; ConfigError without a plan."""
    plan = read_plan(config)
    if plan is None:
        raise ConfigError(f"out={config.out} has no plan.json: run `python -m data_gen plan` before its parts")
    freeze(config)  # refuses inputs that changed
    first = len(plan.units) * index // count
    order = [*plan.units[first:], *plan.units[:first]]  # each task begins elsewhere, and ends by helping the others
    with clear_errors(config):
        make_units(config, plan, [unit for unit in order if plan.manifest(unit) is None])
    return sum(plan.manifest(unit) is None for unit in plan.units)


@contextlib.contextmanager
def clear_errors(config: DataConfig) -> Iterator[None]:
    """Turns what the machine refuses into RunError, with the place and the remedy."""
    try:
        yield
    except OSError as error:
        if one_line(error) is None:
            raise
        place = error.filename or config.out
        remedy = "make space there, then run" if error.errno in NO_SPACE else "run"
        raise RunError(f"{place}: {error.strerror or error}; {remedy} the same command again to resume") from None


def make_units(config: DataConfig, plan: Plan, missing: Sequence[Unit], again: bool = False) -> None:
    """Makes these units, but for those that another process is at work on, or has made meanwhile. `again`: also those
    that are done, but whose tars were cleared away."""
    if not missing:
        return
    parts = make_parts(config)
    check_versions(plan, parts)
    devices = _devices(config, parts, len(missing))
    with tqdm(total=sum(unit.count for unit in missing), unit="set", desc="data_gen", file=sys.stderr) as bar:
        if len(devices) == 1:
            for unit in missing:
                _show(bar, unit, make_unit(config, plan, unit, parts, again))
            return
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        for device in devices:
            queue.put(device)
        pool = ProcessPoolExecutor(len(devices), context, _start_worker, (config, queue, len(devices)))
        try:
            futures = {pool.submit(_work, unit, again): unit for unit in missing}
            for future in as_completed(futures):
                _show(bar, futures[future], future.result())
        except BrokenProcessPool:
            raise RunError("a worker process died; run the same command again to resume") from None
        finally:
            pool.shutdown(cancel_futures=True)


def make_unit(config: DataConfig, plan: Plan, unit: Unit, parts: Parts, again: bool = False) -> dict[str, Any] | None:
    """Makes one unit and returns its manifest; None where another process has it, or had it and is done. `again`: it is
    done only where its tar is there."""
    with _claimed(plan, unit) as ours:
        if not ours or (plan.manifest(unit) is not None and (plan.tar(unit).is_file() or not again)):
            return None
        remove_leftovers(plan.tar(unit).parent, f"{unit.name}.")
        kept, dropped, seconds = _through_stages(config, unit, parts)
        started = time.perf_counter()
        with ThreadPoolExecutor(min(_ENCODERS, _cores())) as pool:  # a GPU waits for it
            records = list(pool.map(lambda sample: _record(config, sample), kept))
        seconds["encode"] = time.perf_counter() - started
        plan.check_unchanged()
        _log(plan, unit, seconds, sum(len(sample.images) for sample in kept))
        _write_examples(plan.tar(unit).with_suffix(".dropped.tar"), [sample for _, sample in dropped], plan.hash)
        header = {"split": unit.split, "plan": plan.hash, "dropped": _reasons(dropped)}
        return write_shard(plan.tar(unit), records, header)


def _through_stages(
    config: DataConfig, unit: Unit, parts: Parts
) -> tuple[list[SubjectSet], list[tuple[str, Dropped]], dict[str, float]]:
    """The sets of a unit that arrive, those that do not with the step that dropped them ("source", or the stage's
    name), and the seconds that each step took."""
    seconds, dropped = {}, []

    def step(name: str, make: Callable[[], Sequence[SubjectSet | Dropped]]) -> list[SubjectSet]:
        started = time.perf_counter()
        made = list(make())
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
        dropped.extend((name, sample) for sample in made if isinstance(sample, Dropped))
        return [sample for sample in made if not isinstance(sample, Dropped)]

    sets = step("source", lambda: parts.source.make(unit.items()))
    for name, stage in parts.stages:
        if sets:
            sets = step(name, lambda stage=stage, given=sets: stage.process(given))
    if twice := [key for key, count in Counter(sample.key for sample in sets).items() if count > 1]:
        raise ConfigError(f"stages: there are two sets {twice[0]}; is a stage named twice, or are keys not unique?")
    sizes = next((stage.sizes for _, stage in reversed(parts.stages) if stage.sizes), [(config.resolution,) * 2])
    for sample in sets:
        first = sample.images[0].size
        if wrong := next((x.size for x in sample.images if x.size not in sizes or x.size != first), None):
            raise ConfigError(
                f"stages: set {sample.key} arrives with an image of {wrong[0]} x {wrong[1]}, the data set is of "
                f"{' or '.join(f'{width} x {height}' for width, height in sizes)}; add the stage 'resize'"
            )
    return sets, dropped, seconds


def _record(config: DataConfig, sample: SubjectSet) -> Record:
    """A set as its unit keeps it: the row holds what `finish` and the report ask for, so that they read no tar."""
    record = encode(sample, config.source, config.seed)
    row = {**record.row, "subject": sample.subject["id"], **({"scores": sample.scores} if sample.scores else {})}
    if config.finish.duplicate_distance is not None:
        from data_gen.hashes import difference_hash

        row["hashes"] = [f"{difference_hash(image):016x}" for image in sample.images]
        if sample.made_from:
            row["made_from"] = sample.made_from
    return Record(row, record.members)


def _reasons(dropped: Sequence[tuple[str, Dropped]]) -> list[dict[str, Any]]:
    return [{"key": x.key, "stage": stage, "reason": x.reason, "scores": x.scores} for stage, x in dropped]


def _write_examples(path: Path, dropped: Sequence[Dropped], plan: str) -> None:
    """A few dropped sets for each reason, small, as a shard of their own; no file where there is none."""
    counted, records = Counter(), []
    for sample in dropped:
        counted[sample.reason] += 1
        if sample.rejected is not None and counted[sample.reason] <= EXAMPLES:
            members = {f"{i}.png": thumbnail(image) for i, image in enumerate(sample.rejected.images)}
            records.append(Record({"key": sample.key, "n": len(members), "reason": sample.reason}, members))
    if records:
        write_shard(path, records, {"plan": plan})


@contextlib.contextmanager
def _claimed(plan: Plan, unit: Unit) -> Iterator[bool]:
    """Whether this process has the unit for the length of the block: a lock which goes with the process, however it
    ends, and holds across the machines of a shared file system."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(plan.out / "units", f".{unit.name}.lock"))
        except FolderInUse:
            yield False
            return
        yield True


def _log(plan: Plan, unit: Unit, seconds: dict[str, float], images: int) -> None:
    """What a unit cost: not in its manifest, which must be the same in every run. Written before it, so that whoever
    finds all units done finds nobody writing."""
    path = plan.out / "logs" / f"{unit.name}.json"
    path.parent.mkdir(exist_ok=True)
    seconds = {name: round(value, 6) for name, value in seconds.items()}
    write_json(path, {"seconds": seconds, "items": unit.count, "images": images})


def _show(bar: tqdm, unit: Unit, manifest: dict[str, Any] | None) -> None:
    if manifest is not None:
        bar.images = getattr(bar, "images", 0) + manifest["counts"]["images"]
        elapsed = max(bar.format_dict["elapsed"], 1e-9)
        bar.set_postfix_str(f"{bar.images / elapsed:.1f} images/s", refresh=False)
    bar.update(unit.count)


def _cores() -> int:
    """Those of this process. Not all clusters bind a task to the cores that it asked for."""
    return min(len(os.sched_getaffinity(0)), int(os.environ.get("SLURM_CPUS_PER_TASK", 1 << 20)))


def _devices(config: DataConfig, parts: Parts, units: int) -> list[str]:
    """One device for each process to start."""
    if not parts.use_models:
        return ["cpu"] * min(config.workers or _cores(), units)
    from data_gen.models import device_of

    device = device_of(config)
    if config.device == "auto" and device.startswith("cuda"):
        import torch

        gpus = torch.cuda.device_count()
        return [f"cuda:{i % gpus}" for i in range(min(config.workers or gpus, units))]
    return [device] * min(config.workers or 1, units)


_worker: tuple[DataConfig, Plan, Parts] | None = None  # a worker process' own; set once when it starts


def _start_worker(config: DataConfig, devices: Any, count: int) -> None:
    global _worker
    config = replace(config, device=devices.get())
    parts = make_parts(config)
    if parts.use_models:
        import torch

        torch.set_num_threads(max(1, _cores() // count))
    _worker = config, read_plan(config), parts
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Ends this worker when the main process is gone: without it, the pool's workers would wait for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(unit: Unit, again: bool) -> dict[str, Any] | None:
    config, plan, parts = _worker
    return make_unit(config, plan, unit, parts, again)
