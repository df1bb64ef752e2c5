"""What lmms-eval asks about a row, and what a reply is worth."""

from pathlib import Path

FOLDER = Path(__file__).parent


def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    """Return the conversation: the video or the image, if there is one, then the question."""
    content = [{"type": "text", "text": doc["question"]}]
    if doc["video"]:
        start, end = doc["clip"] or (None, None)
        content.insert(0, {"type": "video", "url": str(FOLDER / doc["video"]), "start_time": start, "end_time": end})
    if doc["image"]:
        content.insert(0, {"type": "image", "url": str(FOLDER / doc["image"])})
    return [{"role": "user", "content": content}]


def process_results(doc, results):
    """Return whether the reply is the answer, up to case and a full stop."""
    said, right = (text.strip().rstrip(".").lower() for text in (results[0], doc["answer"]))
    return {"accuracy": float(said == right)}
