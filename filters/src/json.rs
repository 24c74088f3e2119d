//! One strict pass over JSON text (RFC 8259): no tree, byte offsets, bounded depth.
