"""Text decoders turn a question and the patches of a frame into the query rows of a context token.

Importing this package registers them:

    llm_embed    the LLM's embeddings and a few layers that attend to the frame; no second tokenizer
    qformer      the Q-Former of InstructBLIP and LLaMA-VID
    bert         BERT with cross-attention in every layer, LLaMA-VID's alternative
    siglip_text  the text tower of SigLIP; does not see the frame
"""

from tinyvid.models.text_decoders.bert import Bert
from tinyvid.models.text_decoders.llm_embed import LLMEmbed
from tinyvid.models.text_decoders.qformer import QFormer
from tinyvid.models.text_decoders.siglip_text import SiglipText

__all__ = ["Bert", "LLMEmbed", "QFormer", "SiglipText"]
