//! Never worse than OpenVidu's own recorder: there is no setting, page, disk, clock, store, stranger or outage under which
//! the stock image records and ours does not. Every test here is a sentence of that law, seen broken once, and is played
//! against the real program.

mod clients;
mod controller;
mod database;
mod disk;
mod log;
mod page;
mod relay;
mod settings;
mod store;
