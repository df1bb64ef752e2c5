"""Markers in samples: the Processor writes them once frames are chosen, and reads them in replies."""

import numpy as np
import torch

from tinyvid import Message, Sample, Video

QUESTION = "What happens from <time:1.2> to <time:4>, in <frame:2.4>?"
REPLY = "A dog barks at <time:3.25>. See <frame:5> and <frame:0>."


def sample(*texts, video=None, **bounds):
    frames = np.random.default_rng(0).integers(0, 255, (12, 30, 40, 3), dtype=np.uint8)
    messages = [Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts)]
    return Sample(messages, video=Video(frames, fps=2.0, **bounds) if video is None else video, id="row")


def text_of(processor, layout):
    return processor.tokenizer.decode(layout.input_ids[~layout.video_mask])


def test_markers_give_the_ids_of_the_text_that_they_stand_for(processor):
    marked = processor(sample(QUESTION, REPLY))
    plain = processor(
        sample(
            "What happens from 1.2 s to 4.0 s, in Frame 2?",  # the frames at 0, 1.5, 3.5 and 5.5 s
            "A dog barks at 3.2 s. See Frame 4 and Frame 1.",
        )
    )
    assert marked.timeline.times == (0.0, 1.5, 3.5, 5.5)
    assert torch.equal(marked.input_ids, plain.input_ids)
    assert torch.equal(marked.labels, plain.labels)
