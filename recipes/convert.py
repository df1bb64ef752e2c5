"""Convert published data sets to rows: ``python recipes/convert.py ucf_crime --help``.

``ucf_crime`` and ``animal_kingdom`` are the data sets of LLaMA-VID's reproduction study. ``cotasks`` and ``traces``
read any data set with timed sentences, and write dialogs, or replies that cite frames; ``cof`` reads the replies of
Chain-of-Frames. Each converter reads the files that the authors publish and writes JSON lines for ``data=jsonl``.
Videos are opened only for ``--max-seconds`` and ``--cut-windows``. Ids depend on names and texts, never on file order.
Rows are left out only if an option says so; the summary counts them.
"""

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyvid.command_line import readable_errors
from tinyvid.data.animal_rows import choices, descriptions, groundings, shuffled, turns
from tinyvid.data.chain_of_frames import UnusableRow, convert_row, notes_on, num_references
from tinyvid.data.cotasks import ROUTES, dialog
from tinyvid.data.formats import CRIMES, NORMAL, NOT_ASKED, Moment, crime_of, read_moments, refuse
from tinyvid.data.rows import open_rows
from tinyvid.data.timed_sentences import READERS
from tinyvid.data.traces import ARMS, KINDS, traces
from tinyvid.errors import ConfigError, DataError
from tinyvid.registry import VIDEO_READERS
from tinyvid.types import Video
from tinyvid.video.open_video import open_video

Row = dict[str, Any]
VIDEOS = {".mp4", ".avi", ".mkv", ".mov", ".webm"}
LISTED = 5  # names shown in a message

ELEVEN = CRIMES  # the classes of the study; normal videos come last
FOURTEEN = (*CRIMES[:-1], *NOT_ASKED, NORMAL)

CRIME = "The video is from a surveillance camera. Which one of these categories describes what happens in it?"
CRIME_LABEL = "{question} Answer with the category only: {categories}."


# --- UCF-Crime --------------------------------------------------------------------------------------------------


def ucf_crime(args: argparse.Namespace, report: Counter[str]) -> Iterator[Row]:
    """Yield a row for every video of a split; the file name starts with the class."""
    classes = ELEVEN if args.classes == "eleven" else FOURTEEN
    files = list_videos(Path(args.videos))
    if args.split != "all" and args.test_list is None:
        raise ConfigError(f"--split {args.split} needs --test-list, the file that lists the official test videos")
    test = read_test_list(Path(args.test_list)) if args.test_list else set()
    missing = sorted(name for name in test - files.keys() if crime_of(name, where=args.test_list) in classes)
    if args.split == "test":
        leave_out(missing, "test videos that are not in the folder", args.allow_missing, report)
    for stem, path in sorted(files.items()):
        label = crime_of(stem, where=path)
        if label not in classes:
            report[f"left out: {label} (--classes eleven)"] += 1
        elif args.split == "all" or (args.split == "test") == (stem in test):
            row = {"id": f"ucf_crime:{stem}", "video": path.relative_to(args.videos).as_posix(), "label": label}
            yield row | {"source": "ucf_crime"} | crime_turns(row["id"], label, classes, args)


def crime_turns(name: str, label: str, classes: Sequence[str], args: argparse.Namespace) -> Row:
    """Return the turns of a row: the label as text, or options and the index of the correct one."""
    options = shuffled(classes, args.shuffle, name)
    if args.target == "choice":
        return {"conversations": turns(CRIME), "options": options, "answer_index": options.index(label)}
    categories = ", ".join(options[:-1]) + f", or {options[-1]}"
    return {"conversations": turns(CRIME_LABEL.format(question=CRIME, categories=categories), label)}


def read_test_list(path: Path) -> set[str]:
    """Return the names, without suffix, in the first column of the official annotation file."""
    if not path.is_file():
        raise DataError(
            f"--test-list {str(path)!r} does not exist; "
            "give the path of Temporal_Anomaly_Annotation_for_Testing_Videos.txt"
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return {Path(line.split()[0]).stem for line in lines if line.strip()}


# --- Animal Kingdom ---------------------------------------------------------------------------------------------


def animal_kingdom(args: argparse.Namespace, report: Counter[str]) -> Iterator[Row]:
    """Yield rows from a grounding file: descriptions, temporal grounding or multiple choice."""
    moments = read_moments(Path(args.annotation))
    files = list_videos(Path(args.videos))
    missing = sorted({moment.code for moment in moments} - files.keys())
    leave_out(missing, "videos that are not in the folder", args.allow_missing, report)
    by_code: dict[str, list[Moment]] = {}
    for moment in moments:
        if moment.code in files:
            by_code.setdefault(moment.code, []).append(moment)
    rows = {
        "description": lambda: descriptions(by_code, keep_repeats=args.keep_repeats),
        "grounding": lambda: groundings(by_code),
        "choice": lambda: choices(by_code, num_options=args.options, seed=args.seed),
    }
    for row in rows[args.task]():
        code = row.pop("code")
        row["video"] = files[code].relative_to(args.videos).as_posix()
        yield row | {"source": "animal_kingdom"}


# --- timed sentences --------------------------------------------------------------------------------------------


def cotasks(args: argparse.Namespace, report: Counter[str]) -> Iterator[Row]:
    """Yield a dialog about the events of each video, for each route."""
    for code, (video, moments) in timed(args, report).items():
        for route in args.route:
            name = f"cotasks:{args.format}:{code}:{route}"
            yield {"id": name, "video": video, "conversations": dialog(moments, route), "source": args.format}


def traced(args: argparse.Namespace, report: Counter[str]) -> Iterator[Row]:
    """Yield questions about the moments of each video, with replies that cite frames."""
    for code, (video, moments) in timed(args, report).items():
        found = traces(
            moments,
            kinds=args.kinds,
            arm=args.arm,
            seed=args.seed,
            on_fault=on_fault(args, report, "sentences or pairs"),
        )
        for row in found:
            report[f"rows of kind {row['kind']}"] += 1
            digest = hashlib.sha256(row["conversations"][0]["value"].encode()).hexdigest()[:12]
            yield {"id": f"traces:{args.format}:{code}:{digest}", "video": video, **row, "source": args.format}


def timed(args: argparse.Namespace, report: Counter[str]) -> dict[str, tuple[str, list[Moment]]]:
    """Return the path and the moments of each video, sorted by time."""
    moments = READERS[args.format](Path(args.annotation), on_fault(args, report, "windows"))
    files = list_videos(Path(args.videos))
    by_code: dict[str, list[Moment]] = {}
    for moment in sorted(moments, key=lambda moment: (moment.code, moment.start, moment.end)):
        by_code.setdefault(moment.code, []).append(moment)
    leave_out(sorted(by_code.keys() - files.keys()), "videos that are not in the folder", args.allow_missing, report)
    found = {code: several for code, several in by_code.items() if code in files}
    if args.cut_windows:
        found = {code: list(cut(several, files[code], args, report)) for code, several in found.items()}
    return {
        code: (files[code].relative_to(args.videos).as_posix(), several) for code, several in found.items() if several
    }


def cut(moments: Sequence[Moment], path: Path, args: argparse.Namespace, report: Counter[str]) -> Iterator[Moment]:
    """Yield moments with windows that end no later than their video, which is opened."""
    duration = open_video(Video(path), VIDEO_READERS.build({"name": "auto"})).meta.duration
    for moment in moments:
        if moment.start >= duration:
            start = f"the window starts at {moment.start:g} s"
            on_fault(args, report, "windows")(DataError(f"{moment.where}: {start}, after its video of {duration:g} s"))
            continue
        report["windows cut to their video (--cut-windows)"] += moment.end > duration
        yield replace(moment, end=min(moment.end, duration))


def on_fault(args: argparse.Namespace, report: Counter[str], what: str) -> Callable[[DataError], None]:
    """Return what to do with a faulty entry: count it with ``--skip-faulty``, or raise its error."""

    def count(_: DataError) -> None:
        report[f"left out: faulty {what} (--skip-faulty)"] += 1

    return count if args.skip_faulty else raise_with_advice


def raise_with_advice(error: DataError) -> None:
    """Raise an error that names the option that leaves faulty entries out."""
    refuse(DataError(f"{error}. --skip-faulty leaves out and counts such entries"))


# --- Chain-of-Frames --------------------------------------------------------------------------------------------


def cof(args: argparse.Namespace, report: Counter[str]) -> Iterator[Row]:
    """Yield the published rows, with references to times; ``--skip-faulty`` names each row that it leaves out."""
    rows = open_rows(Path(args.annotation))
    videos = {video for index in range(len(rows)) if isinstance(video := rows[index].get("video"), str)}
    missing = {video for video in videos if not (Path(args.videos) / video).is_file()}
    leave_out(sorted(missing), "videos that are not in the folder", args.allow_missing, report)
    for index in range(len(rows)):
        row, where = rows[index], rows.where(index)
        try:
            converted = convert_row(row, where, arm=args.arm, seed=args.seed)
        except UnusableRow as error:
            if not args.skip_faulty:
                raise_with_advice(error)
            print(f"left out: {error}", file=sys.stderr)
            report[f"left out: {error.reason} (--skip-faulty)"] += 1
            continue
        if row["video"] in missing:
            continue
        report["references to frames"] += num_references(converted)
        report["rows with key frames"] += "key_frames" in converted
        report.update(f"rows: {note}" for note in notes_on(row))
        yield converted


# --- shared -----------------------------------------------------------------------------------------------------


def list_videos(folder: Path) -> dict[str, Path]:
    """Return the videos below a folder, keyed by unique file name without suffix."""
    if not folder.is_dir():
        raise DataError(f"--videos {str(folder)!r} is not a folder; give the folder that contains the videos")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEOS and path.is_file():
            if path.stem in files:
                raise DataError(f"{files[path.stem]} and {path} have the same name; keep one of them")
            files[path.stem] = path
    if not files:
        raise DataError(f"--videos {folder} contains no videos ({', '.join(sorted(VIDEOS))}); check the path")
    return files


def leave_out(names: Sequence[str], what: str, allowed: bool, report: Counter[str]) -> None:
    """Count missing videos if allowed, or raise DataError."""
    if names and not allowed:
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        raise DataError(f"{len(names)} {what}: {', '.join(names[:LISTED])}{more}; --allow-missing leaves them out")
    if names:
        report[f"left out: {what}"] = len(names)


def short_enough(rows: Iterable[Row], args: argparse.Namespace, report: Counter[str]) -> Iterator[Row]:
    """Yield the rows whose video lasts at most ``--max-seconds``; opens every file."""
    reader = VIDEO_READERS.build({"name": "auto"})
    for row in rows:
        if open_video(Video(Path(args.videos) / row["video"]), reader).meta.duration <= args.max_seconds:
            yield row
        else:
            report[f"left out: longer than {args.max_seconds:g} s"] += 1


CONVERTERS: dict[str, Callable[[argparse.Namespace, Counter[str]], Iterator[Row]]] = {
    "ucf_crime": ucf_crime,
    "animal_kingdom": animal_kingdom,
    "cotasks": cotasks,
    "traces": traced,
    "cof": cof,
}


def convert(args: argparse.Namespace) -> Counter[str]:
    """Write all rows or none, and return the counts to report."""
    out = Path(args.out)
    if out.exists():
        raise DataError(f"--out {out} already exists; choose another file or remove it")
    report: Counter[str] = Counter()
    rows: Iterable[Row] = CONVERTERS[args.converter](args, report)
    if args.max_seconds is not None:
        rows = short_enough(rows, args, report)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for row in rows:
                report["rows"] += 1
                if "label" in row:
                    report[f"rows of class {row['label']}"] += 1
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not report["rows"]:
            raise DataError(f"all rows were left out: {dict(report)}; relax the options")
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    return report


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse and check the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="converter", required=True)
    crime = commands.add_parser("ucf_crime", help="classification; the class is read from the file name")
    crime.add_argument("--test-list", help="path of Temporal_Anomaly_Annotation_for_Testing_Videos.txt")
    crime.add_argument("--split", choices=("train", "test", "all"), default="train", help="default: train")
    crime.add_argument(
        "--classes", choices=("eleven", "fourteen"), default="eleven", help="eleven as in the study, or all fourteen"
    )
    crime.add_argument(
        "--target", choices=("label", "choice"), default="label", help="label as in the study, or multiple choice"
    )
    crime.add_argument("--shuffle", type=int, metavar="SEED", help="shuffle the options of each row (default: fixed)")
    animals = commands.add_parser("animal_kingdom", help="rows from lines 'CODE start end##sentence'")
    animals.add_argument("--annotation", required=True, help="grounding file, such as train.txt")
    animals.add_argument("--task", choices=("description", "grounding", "choice"), default="description")
    animals.add_argument("--keep-repeats", action="store_true", help="keep repeated sentences, as in the study")
    animals.add_argument("--options", type=int, default=4, help="options per multiple-choice question (default: 4)")
    animals.add_argument("--seed", type=int, default=0, help="seed for wrong options and their order (default: 0)")
    tasks = commands.add_parser("cotasks", help="dialogs of tasks about timed sentences: count, times, captions")
    tasks.add_argument("--route", nargs="+", choices=ROUTES, default=["time_first"], help="default: time_first")
    cited = commands.add_parser("traces", help="questions about timed sentences, with replies that cite frames")
    cited.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of questions (default: all)")
    frames = commands.add_parser("cof", help="replies of Chain-of-Frames, with references to times")
    for command in (cited, frames):
        command.add_argument(
            "--arm", choices=ARMS, default="cited", help="what replies contain before the answer (default: cited)"
        )
        command.add_argument("--seed", type=int, default=0, help="seed of random choices, such as --arm shuffled")
    for command in (tasks, cited):
        command.add_argument("--format", required=True, choices=sorted(READERS), help="format of the annotation")
    for command in (tasks, cited, frames):
        command.add_argument("--annotation", required=True, help="annotation file, such as cof_data.jsonl")
        command.add_argument(
            "--cut-windows", action="store_true", help="cut windows that end after their video; opens every file"
        )
        command.add_argument("--skip-faulty", action="store_true", help="leave out entries that cannot be converted")
    for command in (crime, animals, tasks, cited, frames):
        command.add_argument("--videos", required=True, help="folder of videos; pass it to training as data.media_root")
        command.add_argument("--out", required=True, help="JSON lines file to write")
        command.add_argument("--allow-missing", action="store_true", help="leave out rows whose video is missing")
        command.add_argument("--max-seconds", type=float, help="leave out longer videos")
    args = parser.parse_args(arguments)
    for name in ("videos", "out", "test_list", "annotation"):
        if getattr(args, name, None) is not None:
            setattr(args, name, os.path.expanduser(getattr(args, name)))  # shells leave ~ after a = as it is
    if getattr(args, "options", 2) < 2 or getattr(args, "options", 2) > 26:
        parser.error(f"--options {args.options} must be between 2 and 26")
    return args


def main() -> None:
    """Convert a data set and print the number of rows written and left out."""
    with readable_errors():
        args = parse(sys.argv[1:])
        for name, count in convert(args).items():
            print(f"{count:>8,}  {name}")


if __name__ == "__main__":
    main()
