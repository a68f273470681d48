//! Any bytes as a webhook: `cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none webhook -- -max_total_time=60`.

#![no_main]

use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use ov2_ha_recorder::http::read_webhook;

fuzz_target!(|bytes: &[u8]| {
    let (headers, body) = (HeaderMap::new(), bytes.to_vec());
    match read_webhook(&Method::POST, &headers, body.into()) {
        Ok(event) => assert_eq!(&event.body[..], bytes, "it is passed on as it came"),
        Err(why) => assert!(!why.is_empty()),
    }
});
