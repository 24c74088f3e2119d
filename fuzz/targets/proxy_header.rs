//! First bytes are a header of the PROXY protocol, its beginning, or neither.
#![no_main]

#[path = "../../proxy/src/proxy_protocol/header.rs"]
mod header;

use libfuzzer_sys::fuzz_target;

use crate::header::{Header, Progress, parse};

fuzz_target!(|bytes: &[u8]| {
    let mut have = 0;
    loop {
        match parse(&bytes[..have]) {
            Err(_) => return,
            Ok(Progress::Need(more)) => {
                assert!(more > 0 && have + more <= 16 + 4096, "asked for {more} at {have}");
                have += more;
                if have > bytes.len() {
                    return;
                }
            }
            Ok(Progress::Done(said)) => {
                // What is told to an upstream is what was told to us.
                if let Header::Proxied(ends) = said {
                    for told in [ends.to_line(), ends.to_binary(None), ends.to_binary(Some("a.example"))] {
                        let Ok(Progress::Done(Header::Proxied(again))) = parse(&told) else {
                            panic!("{ends:?}: {told:?}")
                        };
                        assert_eq!(again.source.ip().to_canonical(), ends.source.ip().to_canonical());
                        assert_eq!(again.destination.port(), ends.destination.port());
                    }
                }
                return;
            }
        }
    }
});
