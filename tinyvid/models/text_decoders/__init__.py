"""Text decoders: a question, and the patches of a frame, become the rows that a context token is asked for with.

The menu, each registered by the import of its module:

    llm_embed    the LLM's own embeddings and a few layers that look at the frame; no second tokenizer
    qformer      the Q-Former of InstructBLIP and LLaMA-VID
    bert         BERT with cross attention in every layer, LLaMA-VID's other choice
    siglip_text  the text half of SigLIP; looks at no frame
"""

from tinyvid.models.text_decoders.bert import Bert
from tinyvid.models.text_decoders.llm_embed import LLMEmbed
from tinyvid.models.text_decoders.qformer import QFormer
from tinyvid.models.text_decoders.siglip_text import SiglipText

__all__ = ["Bert", "LLMEmbed", "QFormer", "SiglipText"]
