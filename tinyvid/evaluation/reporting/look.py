"""The look report: does a model use the video, and what of it?

It compares the replies about each clip with those of controls, which ask the same with something else in place of it.
Differences are paired, item by item. Their intervals resample whole videos, and those of groups hold for all groups of
a kind together (Bonferroni), so that one of many groups does not stand out by chance.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyvid.evaluation.items import Item, Outcome
from tinyvid.evaluation.reporting.compare import number, paired
from tinyvid.evaluation.reporting.plots import MOST_BARS, error_bars, finish, plain_text, start
from tinyvid.evaluation.scoring.averages import CONFIDENCE, by_group, kinds_of
from tinyvid.outputs import write_text

DATA, TEXT, PICTURE = "look.json", "look.md", "look.png"
OVERALL = "overall"
SMALL = 0.05  # a loss that counts as none, if the interval is below it
MIN_VIDEOS = 10  # of a finding; intervals that resample fewer are too narrow
MANY_UNPARSED = 0.1
# For each control: what is shown, and what it means if the accuracy is lower than with the clip, and if it is not.
MEANINGS = {
    "black": ("black frames", "The model uses the video", "The model does not use the video"),
    "other": (
        "frames of another video",
        "The replies depend on which video is shown",
        "The replies do not depend on which video is shown",
    ),
    "middle": (
        "copies of the middle frame",
        "The model uses more than one frame",
        "The model does not use more than one frame",
    ),
    "shuffled": (
        "shuffled frames",
        "The model uses the order of frames",
        "The model does not use the order of frames",
    ),
    "reversed": (
        "reversed frames",
        "The model notices the direction of time",
        "The model does not notice the direction of time",
    ),
}


def summarize_look(
    items: Sequence[Item],
    clip: Mapping[str, Outcome],
    controls: Mapping[str, Mapping[str, Outcome]],
    before: Mapping[str, Outcome] | None,
    *,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of ``look.json``.

    Args:
        items: The items to compare, which all runs asked.
        clip: Outcomes with the clips, by id.
        controls: For each control, its outcomes; only those of items that it changes.
        before: Outcomes of an earlier model with the clips.
        settings: What the report is about: benchmark, model, counts.
    """
    outcomes = [clip[item.id] for item in items]
    kinds = [kind for kind in kinds_of(outcomes) if len(by_group(outcomes, kind)) > 1]
    rows = [_row("", OVERALL, items, clip, controls, before, CONFIDENCE)]
    for kind in kinds:
        groups = by_group(outcomes, kind)
        confidence = 1 - (1 - CONFIDENCE) / len(groups)
        for name, members in groups.items():
            ids = {member.id for member in members}
            chosen = [item for item in items if item.id in ids]
            rows.append(_row(kind, name, chosen, clip, controls, before, confidence))
    unparsed = sum(outcome.status == "unparsed" for outcome in outcomes) / len(outcomes)
    data = {**settings, "controls": [*controls], "unparsed": unparsed, "rows": rows}
    return data | {"findings": findings(data, has_options=any(item.options for item in items))}


def _row(
    kind: str,
    name: str,
    items: Sequence[Item],
    clip: Mapping[str, Outcome],
    controls: Mapping[str, Mapping[str, Outcome]],
    before: Mapping[str, Outcome] | None,
    confidence: float,
) -> dict[str, Any]:
    outcomes = [clip[item.id] for item in items]
    found = {control: _lost(items, clip, of, confidence) for control, of in controls.items()}
    return {
        "kind": kind,
        "name": name,
        "videos": len({outcome.video for outcome in outcomes}),
        "guessing": guessing(items),
        "clip": number(outcomes),
        "controls": {control: of for control, of in found.items() if of is not None},
        "before": None if before is None else _lost(items, clip, before, confidence),
    }


def _lost(
    items: Sequence[Item], clip: Mapping[str, Outcome], other: Mapping[str, Outcome], confidence: float
) -> dict[str, Any] | None:
    """Return the accuracy of a run, and how much more the run with the clips has on the same items."""
    ids = [item.id for item in items if item.id in other]
    if not ids:
        return None
    pair = paired([other[id] for id in ids], [clip[id] for id in ids], confidence=confidence)
    kept = {key: pair[key] for key in ("difference", "low", "high", "p", "test")}
    kept["same"] = pair["same_prediction"] / len(ids)
    videos = len({clip[id].video for id in ids})
    return number([other[id] for id in ids]) | {"videos": videos, "alpha": 1 - confidence, "lost": kept}


def guessing(items: Sequence[Item]) -> float | None:
    """Return the best accuracy without looking: a random letter, or the most common answer of each other rule.

    ``None`` if the value of a rule is not right or wrong.
    """
    total = 0.0
    rules = {item.rule for item in items}
    for rule in sorted(rules):
        members = [item for item in items if item.rule == rule]
        if rule == "choice":
            total += sum(1 / len(item.options) for item in members)
        elif rule in ("label", "yes_no", "exact", "contains"):
            total += max(Counter(str(item.answer).casefold() for item in members).values())
        else:
            return None
    return total / len(items)


def verdict(found: Mapping[str, Any], *, side: int = 1) -> str:
    """Return what the interval of a difference says: ``lower``, ``higher``, ``equal`` or ``open``.

    Args:
        found: The accuracy of a run, and the difference to it.
        side: 1 if ``equal`` means that the run with the clips is not much better, -1 if it is not much worse.
    """
    lost = found["lost"]
    if found["videos"] < MIN_VIDEOS:
        return "open"
    if lost["p"] < found["alpha"] and (lost["low"] > 0 or lost["high"] < 0):
        return "lower" if lost["low"] > 0 else "higher"
    return "equal" if most(found, side=side) < SMALL else "open"


def most(found: Mapping[str, Any], *, side: int = 1) -> float:
    """Return the bound of the interval on one side, but at least what so many items without a difference allow."""
    lost = found["lost"]
    return float(max(lost["high"] if side > 0 else -lost["low"], 1 - (found["alpha"] / 2) ** (1 / found["n"])))


def findings(data: Mapping[str, Any], *, has_options: bool) -> list[str]:
    """Return one sentence for each finding that the intervals support, and for each question that they leave open."""
    overall, groups = data["rows"][0], data["rows"][1:]
    clip, chance, told = overall["clip"], overall["guessing"], []
    if chance is not None and clip["low"] <= chance:
        told.append(
            f"With the clip, the accuracy of {_percent(clip['value'])} ({_percent(clip['low'])} to "
            f"{_percent(clip['high'])}) is not above guessing, {_percent(chance)}."
        )
    if overall["videos"] < MIN_VIDEOS:
        told.append(f"There are {overall['videos']} videos, and a finding needs {MIN_VIDEOS}; ask about more.")
    for control, (shown, used, unused) in MEANINGS.items() if overall["videos"] >= MIN_VIDEOS else ():
        if control not in overall["controls"]:
            continue
        rows = [(row, row["controls"][control]) for row in groups if control in row["controls"]]
        told.append(_sentence(overall["controls"][control], shown, used, unused))
        told += _groups(rows, "lower", f"{shown[0].upper()}{shown[1:]} cost points")
        told += _groups(rows, "higher", f"The accuracy is higher with {shown}")
    if overall["before"] is not None and overall["videos"] >= MIN_VIDEOS:
        told += _changes(overall["before"], [(row, row["before"]) for row in groups if row["before"]])
    if data["unparsed"] > MANY_UNPARSED:
        advice = "; score=likelihood compares the options instead" if has_options and data["score"] == "reply" else ""
        told.append(f"{_percent(data['unparsed'])} of the replies could not be parsed{advice}.")
    return told


def _sentence(found: Mapping[str, Any], shown: str, used: str, unused: str) -> str:
    cost, decided = _points(found["lost"]), verdict(found)
    if decided == "lower":
        return f"{used}: {shown} cost {cost} points."
    if decided == "equal":
        same = _percent(found["lost"]["same"])
        return f"{unused}: {shown} cost at most {100 * most(found):.1f} points ({same} of the answers stay the same)."
    if decided == "higher":
        return f"The accuracy is higher with {shown} than with the clip: {cost} points."
    whether = used[0].lower() + used[1:]
    return f"It is not decided whether {whether}: {shown} cost {cost} points; ask about more videos."


def _changes(found: Mapping[str, Any], rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    """Return what changed since the earlier run, overall and by group."""
    decided, change = verdict(found, side=-1), _points(found["lost"])
    if decided == "equal":
        told = [f"The accuracy fell by at most {100 * most(found, side=-1):.1f} points since the earlier run."]
    elif decided == "open":
        told = [f"It is not decided whether the accuracy changed since the earlier run: {change} points."]
    else:
        told = [f"The accuracy {'rose' if decided == 'lower' else 'fell'} since the earlier run: {change} points."]
    return [*told, *_groups(rows, "higher", "The accuracy fell"), *_groups(rows, "lower", "The accuracy rose")]


def _groups(rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], decided: str, what: str) -> list[str]:
    """Return a sentence with the groups whose interval says so, the largest difference first, or none."""
    told = []
    for kind in dict.fromkeys(row["kind"] for row, _ in rows):
        of_kind = [(found["lost"]["difference"], row["name"], found) for row, found in rows if row["kind"] == kind]
        named = [(points, name) for points, name, found in of_kind if verdict(found) == decided]
        if named:
            named.sort(key=lambda entry: (-abs(entry[0]), entry[1]))
            listed = ", ".join(f"{name} {100 * points:.1f}" for points, name in named)
            told.append(f"{kind} {len(named)} of {len(of_kind)} ({listed})")
    return [f"{what} in groups of {'; '.join(told)}."] if told else []


def write_look(folder: Path, data: Mapping[str, Any]) -> None:
    """Write ``look.png``, ``look.md`` and, last, ``look.json``."""
    draw_look(folder / PICTURE, data)
    write_text(folder / TEXT, look_text(data))
    write_text(folder / DATA, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def look_text(data: Mapping[str, Any]) -> str:
    """Return a look report as Markdown."""
    overall, controls, before = data["rows"][0], data["controls"], data["rows"][0]["before"] is not None
    counts = f"{overall['clip']['n']:,} items about {overall['videos']:,} videos"
    lines = [f"# Does it look? {data['benchmark']}: {counts}", ""]
    lines += [f"- {finding}" for finding in data["findings"]]
    lines += ["", f"![Accuracy and loss by group]({PICTURE})", "", "## Accuracy in %", ""]
    names = ["guessing", "the clip", "95 % interval", *controls, *(["before"] if before else [])]
    lines += [f"| | items | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for row in data["rows"]:
        clip = row["clip"]
        cells = ["" if row["guessing"] is None else f"{100 * row['guessing']:.1f}", f"{100 * clip['value']:.1f}"]
        cells += [f"{100 * clip['low']:.1f} to {100 * clip['high']:.1f}"]
        cells += ["" if of is None else f"{100 * of['value']:.1f}" for of in _found(row, data)]
        lines.append(f"| {_title(row)} | {clip['n']:,} | {' | '.join(cells)} |")
    lines += ["", "## Points lost without the clip", ""]
    lines += [
        "Accuracy with the clip minus accuracy with what is shown in place of it, on the same items. 95 % intervals "
        "resample whole videos; those of groups hold together for all groups of a kind. Bold: a finding, with at least "
        f"{MIN_VIDEOS} videos and a test that agrees.",
        "",
    ]
    names = [*controls, *(["gained since before"] if before else [])]
    lines += [f"| | videos | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for row in data["rows"]:
        lines.append(f"| {_title(row)} | {row['videos']:,} | {' | '.join(map(_cell, _found(row, data)))} |")
    lines += ["", "Guessing is a random letter, or the most common answer of each other rule.", *_notes(data)]
    return "\n".join(lines) + "\n"


def _found(row: Mapping[str, Any], data: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    """Return what a row says about each control and the earlier run, in the order of the columns."""
    found = [row["controls"].get(control) for control in data["controls"]]
    return found if data["rows"][0]["before"] is None else [*found, row["before"]]


def _notes(data: Mapping[str, Any]) -> list[str]:
    left_out = [f"{count:,} {why}" for why, count in data["left_out"].items() if count]
    notes = [f"Left out: {', '.join(left_out)}."] if left_out else []
    return [*notes, "", f"Model: `{data['ckpt']}`. Scored by {data['score']}. Each subfolder is a run of its own."]


def _title(row: Mapping[str, Any]) -> str:
    return f"**{OVERALL}**" if not row["kind"] else f"{row['kind']}: {row['name']}".replace("|", "\\|")


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"**{_points(found['lost'])}**" if verdict(found) in ("lower", "higher") else _points(found["lost"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(lost: Mapping[str, float]) -> str:
    return f"{100 * lost['difference']:.1f} ({100 * lost['low']:.1f} to {100 * lost['high']:.1f})"


def draw_look(path: Path, data: Mapping[str, Any]) -> None:
    """Plot the accuracy of each group with the clip and each control, and next to it the points lost."""
    pyplot = start()
    rows, controls = data["rows"][:MOST_BARS], data["controls"]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(11, 1.9 + 0.42 * len(rows)), sharey=True, layout="constrained"
    )
    step = 0.8 / max(1, len(controls))
    for place, row in enumerate(rows):
        if row["guessing"] is not None:
            left.plot([100 * row["guessing"]] * 2, [place - 0.4, place + 0.4], color="black", linestyle=":")
    style = {"fmt": "o", "capsize": 2, "markersize": 4, "linewidth": 1}
    clips = [row["clip"] for row in rows]
    values = [100 * clip["value"] for clip in clips]
    left.errorbar(values, range(len(rows)), xerr=error_bars(clips), color="black", label="the clip", **style)
    for order, control in enumerate(controls):
        found = [(place, row["controls"][control]) for place, row in enumerate(rows) if control in row["controls"]]
        places = [place - 0.4 + (order + 0.5) * step for place, _ in found]
        color, label = f"C{order}", MEANINGS[control][0]
        left.plot([100 * of["value"] for _, of in found], places, "o", color=color, markersize=4, label=label)
        lost = [of["lost"] for _, of in found]
        costs = [100 * one["difference"] for one in lost]
        right.errorbar(costs, places, xerr=error_bars(lost, "difference"), color=color, **style)
    names = [OVERALL if not row["kind"] else plain_text(f"{row['kind']}: {row['name']}", 40) for row in rows]
    left.set_yticks(range(len(rows)), [f"{name} ({row['clip']['n']})" for name, row in zip(names, rows, strict=True)])
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set(xlim=(0, 100), xlabel="accuracy in %, dotted: guessing")
    right.axvline(0, color="black", linewidth=1)
    right.set_xlabel("points lost without the clip, with 95 % intervals")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    finish(pyplot, figure, path)
