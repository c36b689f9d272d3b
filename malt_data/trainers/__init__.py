"""From training sets to role adapters: SFT, then DPO, on one base model (MALT §4.3, §A.9)."""
