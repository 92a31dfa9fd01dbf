//! Observers, quantizers and packing of integer codes.
