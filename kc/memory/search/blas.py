"""FAISS, with matrix products as fast as the processor allows where a command asked for it. Import FAISS from here."""

from kc.process import faiss_kernels

with faiss_kernels():
    import faiss

__all__ = ["faiss"]
