"""The face of this project in A1111 and Forge; `scripts/ddm.py` is its door. Thin over debias/ and training/."""
