//! What a server of files has answered.
use super::family::{Family, Kind};
use crate::serve::http::HttpTotals;

/// All of a server.
pub fn of_server(http: &HttpTotals) -> Vec<Family> {
    use Kind::{Counter, Gauge};
    vec![
        Family::by(
            "icecache_http_responses_total",
            "Answers, by the first digit of their status.",
            "class",
            &[
                ("2xx", http.answers[0]),
                ("3xx", http.answers[1]),
                ("4xx", http.answers[2]),
                ("5xx", http.answers[3]),
            ],
        ),
        Family::one("icecache_http_sent_bytes_total", Counter, "Bytes of bodies sent.", http.bytes_sent),
        Family::one("icecache_http_connections", Gauge, "Connections that are open.", http.connections),
        Family::one(
            "icecache_http_connections_cut_total",
            Counter,
            "Connections that were ended because nothing moved for too long.",
            http.connections_cut,
        ),
    ]
}
