//! What the tests and the demo share: OpenVidu's part, a controller of their own, and eyes for the recordings.

#![allow(dead_code, reason = "the demo and each test use a part of it")]

pub mod bare;
pub mod controller;
pub mod crowd;
pub mod desk;
pub mod docker;
pub mod docker_socket;
pub mod fakes;
pub mod faults;
pub mod frames;
pub mod gate;
pub mod hours;
pub mod loss;
pub mod odd_store;
pub mod openvidu;
pub mod own_disk;
pub mod page;
pub mod preload;
pub mod reader;
pub mod registry;
pub mod rest;
pub mod secrets;
pub mod sheet;
pub mod stage;
pub mod standin;
pub mod stock;
pub mod stores;
pub mod target;
pub mod vessel;
pub mod wait;
