"""Questions about times, in the words that training rows and benchmarks share."""

DESCRIBE = "Describe the events in the video in order, one per line, each with its start and its end."
COUNT = "How many events are there in the video?"
SEGMENTS = "When do these events happen? Give the start and the end of each one, one per line."
CAPTIONS = "What happens in these events? Describe each one in a sentence, one per line."


def when(sentence: str, *, several: bool = False) -> str:
    """Return the question when a sentence happens in a video; with ``several``, for all of its windows."""
    asked = f'When does this happen in the video: "{bare(sentence)}"? Give the start and the end'
    return f"{asked} of every occurrence, the best match first." if several else f"{asked}."


def bare(sentence: str) -> str:
    """Return a sentence without its final period, to be quoted in another one."""
    return sentence.rstrip(" .") or sentence
