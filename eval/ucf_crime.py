"""UCF-Crime (arXiv:1801.04264) as classification with eleven labels, as in a reproduction study of LLaMA-VID.

File names start with the label. Three classes of the data set (Shoplifting, Stealing, Vandalism) are left out. More
than half of the test videos are normal, so compare the accuracy with that of the majority label and with the mean over
classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tinyvid import BENCHMARKS, Item, Outcome, Sample, macro, micro, require
from tinyvid.data.formats import CRIMES, NORMAL, NOT_ASKED, crime_of

from .prompts import conversation
from .rows import first_of

TEST_LIST = "Temporal_Anomaly_Annotation_for_Testing_Videos.txt"
QUESTION = (
    "You will perform anomaly detection on a surveillance camera video. Classify the activity in the video by using "
    f"ONLY ONE of the mentioned categories: {', '.join(CRIMES[:-1])}, or {NORMAL}."
)


@BENCHMARKS.register("ucf_crime")
class UCFCrime:
    """Ask for the class of each test video of UCF-Crime.

    Args:
        root: Folder with the official list of test videos; the videos may be in any subfolders.
        prompt_style: ``official`` asks the question of the study.

    Raises:
        DataError: The list is missing or contains an unknown class.
    """

    name = "ucf_crime"
    source = "https://www.crcv.ucf.edu/projects/real-world/ (Anomaly-Videos-Part-*.zip, Testing_Normal_Videos.zip)"

    def __init__(self, *, root: str, prompt_style: Literal["official"] = "official") -> None:
        folder = require(root, [TEST_LIST], source=self.source)
        self.prompt_style = prompt_style
        files = {path.name: str(path.relative_to(folder)) for path in sorted(folder.rglob("*.mp4"), reverse=True)}
        self.items = []
        for number, line in enumerate((folder / TEST_LIST).read_text(encoding="utf-8").splitlines(), 1):
            where = f"{folder / TEST_LIST}:{number}"
            name = Path(next(iter(line.split()), "")).name
            if name and (label := crime_of(name, where=where)) not in NOT_ASKED:
                place = first_of(folder, [files.get(name, f"videos/{name}")])
                self.items.append(_item(name, label, place))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Return the question about one video."""
        return self.items[index]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return accuracies in percent.

        ``Accuracy``: over all videos. ``Majority``: of always predicting the most common label. ``Strict``: only
        replies that consist of the label count. ``Macro``: mean over labels. ``Anomalies``: over videos with an
        anomaly. ``Binary``: anomaly or normal.
        """
        answers = [outcome.answer for outcome in outcomes]
        anomalies = [outcome for outcome in outcomes if outcome.answer != NORMAL]
        binary = [o.prediction is not None and (o.prediction == NORMAL) == (o.answer == NORMAL) for o in outcomes]
        return {
            "Accuracy": 100 * micro(outcomes),
            "Majority": 100 * max(map(answers.count, answers)) / len(answers),
            "Strict": 100 * sum(outcome.exact for outcome in outcomes) / len(outcomes),
            "Macro": 100 * macro(outcomes, "label"),
            **({"Anomalies": 100 * micro(anomalies)} if anomalies else {}),
            "Binary": 100 * sum(binary) / len(binary),
        }


def _item(name: str, label: str, path: str) -> Item:
    return Item(
        id=name,
        sample=Sample(conversation(QUESTION), path, id=name),
        rule="label",
        answer=label,
        options={text: text for text in CRIMES},
        groups={"label": label, "anomaly": "normal" if label == NORMAL else "anomaly"},
        question=QUESTION,
    )
