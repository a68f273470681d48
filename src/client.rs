//! The controller's REST client.
