//! The integration tests, one binary: the product against real Docker, real browsers and real stores.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod architecture;
mod join;
mod readme;
mod store;
mod story;
mod support;
