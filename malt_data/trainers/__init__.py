"""Train role adapters with SFT, then DPO, on one base model (MALT §4.3, §A.9)."""
