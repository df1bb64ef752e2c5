"""tinyvid inside other programs: what they load by entry point. Each module needs its program; nothing else does.

lmms_eval   the model ``tinyvid`` of lmms-eval; chat: what it asks, as samples
"""
