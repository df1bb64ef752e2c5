"""UCF-Crime (arXiv:1801.04264) as a question with eleven labels, as a reproduction study of LLaMA-VID asked it.

The label of a video is the beginning of its name. Three classes of the data set (Shoplifting, Stealing, Vandalism) are
not asked. More than half of the test is normal, so an accuracy says little without the majority's, and without the mean
over classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tinyvid import BENCHMARKS, Item, Outcome, Sample, macro, micro, require
from tinyvid.data.formats import CRIMES, NORMAL, NOT_ASKED, crime_of

from .prompts import conversation

TEST_LIST = "Temporal_Anomaly_Annotation_for_Testing_Videos.txt"
QUESTION = (
    "You will perform anomaly detection on a surveillance camera video. Classify the activity in the video by using "
    f"ONLY ONE of the mentioned categories: {', '.join(CRIMES[:-1])}, or {NORMAL}."
)


@BENCHMARKS.register("ucf_crime")
class UCFCrime:
    """Ask for the class of each test video of UCF-Crime.

    Args:
        root: Folder with the official list of test videos, and with the videos below it in any folders.
        prompt_style: ``official``: the question of the study.

    Raises:
        DataError: The list is missing, or names a class that there is not.
    """

    name = "ucf_crime"
    source = "https://www.crcv.ucf.edu/projects/real-world/ (Anomaly-Videos-Part-*.zip, Testing_Normal_Videos.zip)"

    def __init__(self, *, root: str, prompt_style: Literal["official"] = "official") -> None:
        folder = require(root, [TEST_LIST], source=self.source)
        self.prompt_style = prompt_style
        files = {path.name: str(path) for path in sorted(folder.rglob("*.mp4"), reverse=True)}
        self.items = []
        for number, line in enumerate((folder / TEST_LIST).read_text(encoding="utf-8").splitlines(), 1):
            where = f"{folder / TEST_LIST}:{number}"
            name = Path(next(iter(line.split()), "")).name
            if name and (label := crime_of(name, where=where)) not in NOT_ASKED:
                self.items.append(_item(name, label, files.get(name, str(folder / "videos" / name))))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Return a video's question."""
        return self.items[index]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return accuracies in percent.

        ``Accuracy`` over all; ``Majority``: what always saying the commonest label reaches; ``Strict``: replies that
        are the label and nothing else; ``Macro`` over labels; ``Anomalies``: over videos that show one; ``Binary``:
        whether there is one, of whichever kind.
        """
        answers = [outcome.answer for outcome in outcomes]
        anomalies = [outcome for outcome in outcomes if outcome.answer != NORMAL]
        told = [o.prediction is not None and (o.prediction == NORMAL) == (o.answer == NORMAL) for o in outcomes]
        return {
            "Accuracy": 100 * micro(outcomes),
            "Majority": 100 * max(map(answers.count, answers)) / len(answers),
            "Strict": 100 * sum(outcome.exact for outcome in outcomes) / len(outcomes),
            "Macro": 100 * macro(outcomes, "label"),
            **({"Anomalies": 100 * micro(anomalies)} if anomalies else {}),
            "Binary": 100 * sum(told) / len(told),
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
