"""Integrations with other programs, which load them by entry point. Only these modules depend on the programs.

lmms_eval   the model ``tinyvid`` of lmms-eval; ``chat`` converts its requests
"""
