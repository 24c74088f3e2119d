//! The zlib interface in pure Rust, so that a machine without cmake builds the gateway.
//!
//! Pingora's compression asks for zlib-ng, which builds with cmake only. The gateway never compresses
//! through it; what is here forwards to zlib-rs all the same, call by call.

#![allow(non_camel_case_types, non_snake_case, clippy::missing_safety_doc, reason = "the names and contracts of zlib")]

use core::ffi::{c_char, c_int, c_void};

pub use libz_rs_sys::{
    Bytef, Z_BLOCK, Z_BUF_ERROR, Z_DATA_ERROR, Z_DEFAULT_STRATEGY, Z_DEFLATED, Z_FINISH, Z_FULL_FLUSH, Z_MEM_ERROR,
    Z_NEED_DICT, Z_NO_FLUSH, Z_OK, Z_PARTIAL_FLUSH, Z_STREAM_END, Z_STREAM_ERROR, Z_SYNC_FLUSH, internal_state, uInt,
    uLong, voidpf, zlibVersion,
};

/// The stream state of zlib, with allocators that are always there: `Option` of a function pointer has
/// the layout of the pointer, so both sides see the same bytes.
#[repr(C)]
pub struct z_stream {
    pub next_in: *const Bytef,
    pub avail_in: uInt,
    pub total_in: uLong,
    pub next_out: *mut Bytef,
    pub avail_out: uInt,
    pub total_out: uLong,
    pub msg: *mut c_char,
    pub state: *mut internal_state,
    pub zalloc: unsafe extern "C" fn(*mut c_void, uInt, uInt) -> *mut c_void,
    pub zfree: unsafe extern "C" fn(*mut c_void, *mut c_void),
    pub opaque: voidpf,
    pub data_type: c_int,
    pub adler: uLong,
    pub reserved: uLong,
}

const _: () = assert!(
    size_of::<z_stream>() == size_of::<libz_rs_sys::z_stream>()
        && align_of::<z_stream>() == align_of::<libz_rs_sys::z_stream>()
);

macro_rules! forward {
    ($($name:ident($($arg:ident: $kind:ty),*);)*) => {
        $(
            /// As in zlib's manual; the stream must be one that zlib's rules allow here.
            pub unsafe extern "C" fn $name(strm: *mut z_stream $(, $arg: $kind)*) -> c_int {
                // SAFETY: the caller keeps zlib's contract; the layouts are equal.
                unsafe { libz_rs_sys::$name(strm.cast() $(, $arg)*) }
            }
        )*
    };
}

forward! {
    deflate(flush: c_int);
    deflateEnd();
    deflateReset();
    deflateParams(level: c_int, strategy: c_int);
    deflateSetDictionary(dictionary: *const Bytef, length: uInt);
    deflateInit2_(
        level: c_int, method: c_int, window_bits: c_int, memory: c_int, strategy: c_int,
        version: *const c_char, size: c_int
    );
    inflate(flush: c_int);
    inflateEnd();
    inflateReset2(window_bits: c_int);
    inflateSetDictionary(dictionary: *const Bytef, length: uInt);
    inflateInit2_(window_bits: c_int, version: *const c_char, size: c_int);
}
