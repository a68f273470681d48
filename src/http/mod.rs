//! The edge over HTTP: API, webhook, pages.
