//! Randomness comes through here: identifiers, secrets and jitter, all from the operating system.

use std::fmt::Write;

/// `N` bytes from the operating system's generator.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    if let Err(cause) = getrandom::fill(&mut out) {
        // Without randomness no secret can be made: nothing sensible can go on.
        panic!("the operating system gives no random bytes: {cause}");
    }
    out
}

/// A random identifier of `2 × N` lower-case hexadecimal digits.
pub fn hex<const N: usize>() -> String {
    bytes::<N>()
        .iter()
        .fold(String::with_capacity(2 * N), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A number from 0 up to, not including, 1.
pub fn unit() -> f64 {
    f64::from(u32::from_le_bytes(bytes())) / (f64::from(u32::MAX) + 1.0)
}
