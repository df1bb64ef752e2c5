"""Video-Bench: 13 multiple-choice sets in three levels (arXiv:2311.16103).

The score of a level is the weighted mean of its sets, and the final score is the mean of the levels; the number of
questions in a set does not matter.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from tinyvid import BENCHMARKS, ConfigError, Item, Outcome, Sample, by_group, graded, lettered, micro, require, suggest

from .prompts import conversation
from .rows import Row, first_of, read_object

# The sets of each level with their weights.
LEVELS = {
    "Video-exclusive Understanding": {
        "ActivityNet": 1.0, "MSVD": 1.0, "MSRVTT": 1.0, "TGIF": 1.0, "Youcook2": 1.0, "Ucfcrime": 1.0, "MOT": 0.5,
    },
    "Prior Knowledge-based QA": {"TVQA": 1.0, "MV": 1.0, "NBA": 1.0},
    "Comprehension and Decision-making": {"Driving-exam": 0.5, "Driving-decision-making": 1.0, "SQA3D": 1.0},
}  # fmt: skip
SETS = [name for sets in LEVELS.values() for name in sets]
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
# The official prompt varies with the number of options: the text before them, and after the colon.
BEFORE = {6: "Choices: "}
AFTER = {2: " ", 3: " ", 5: " "}


@BENCHMARKS.register("videobench")
class VideoBench:
    """Ask the questions of Video-Bench.

    Args:
        root: Folder with ``Eval_QA/`` and ``Eval_video/``.
        sets: Names of the sets to ask; empty for all 13.
        prompt_style: ``official`` lists the options on one line and asks for the closest one.

    Raises:
        DataError: Annotation files are missing, or a row is malformed.
        ConfigError: A set is unknown.
    """

    name = "videobench"
    source = "https://huggingface.co/datasets/LanguageBind/Video-Bench"

    def __init__(
        self,
        *,
        root: str,
        sets: list[str] = (),  # type: ignore[assignment]
        prompt_style: Literal["official"] = "official",
    ) -> None:
        for name in sets:
            if name not in SETS:
                raise ConfigError(f"benchmark.sets: unknown set {name!r}. {suggest(name, SETS)}")
        self.prompt_style = prompt_style
        files = {name: f"Eval_QA/{name}_QA_new.json" for name in SETS if not sets or name in sets}
        self.folder = require(root, list(files.values()), source=self.source)
        self.items = [
            self._item(f"{name}/{key}", name, Row(row if isinstance(row, dict) else {}, f"{file}: '{key}'"))
            for name, file in files.items()
            for key, row in read_object(self.folder / file).items()
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Return a question."""
        return self.items[index]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the scores of complete levels, and the final score if all levels are complete, in percent."""
        scores = {name: 100 * micro(part) for name, part in by_group(graded(outcomes), "set").items()}
        whole = {level: weights for level, weights in LEVELS.items() if weights.keys() <= scores.keys()}
        levels = {level: _weighted(scores, weights) for level, weights in whole.items()}
        return levels | ({"Final": sum(levels.values()) / len(levels)} if len(levels) == len(LEVELS) else {})

    def _item(self, name: str, of: str, row: Row) -> Item:
        choices = row.mapping("choices")
        options = lettered(list(choices.values()))
        return Item(
            id=name,
            sample=Sample(
                conversation(_prompt(row.text("question"), choices)),
                first_of(self.folder, [row.path("vid_path")]),
                id=name,
            ),
            answer=row.letter("answer", options) if row.has("answer") else None,
            options=options,
            groups={"set": of, "level": next(level for level, sets in LEVELS.items() if of in sets)},
            question=row.text("question"),
        )


def _weighted(scores: Mapping[str, float], weights: Mapping[str, float]) -> float:
    return sum(weight * scores[name] for name, weight in weights.items()) / sum(weights.values())


def _prompt(question: str, choices: Mapping[str, str]) -> str:
    """Return the official prompt; options keep the whitespace of the rows."""
    written = " ".join(f"{letter}.{text}" for letter, text in choices.items())
    count = len(choices)
    return (
        f"{question}{BEFORE.get(count, ' ')}{written} \n Among the {COUNTS.get(count, count)} options "
        f"{', '.join(choices)} above, the one closest to the correct answer is:{AFTER.get(count, '')}"
    )
