//! The integration tests, one binary: the product against real Docker, real browsers and real stores.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod api;
mod architecture;
mod archive;
mod clocks;
mod container;
mod controller;
mod damage;
mod doctor;
mod failover;
mod faulty;
mod hostile;
mod join;
mod lost;
mod mutants;
mod never_worse;
mod older;
mod operator;
mod package;
mod page;
mod power;
mod quick;
mod readme;
mod record;
mod recover;
mod s3server;
mod schema;
mod scripts;
mod store;
mod story;
mod stranger;
mod support;
mod terminal;
mod upload;
mod validate;
mod watchdog;
mod webhook;
mod webrtc;
mod word;
