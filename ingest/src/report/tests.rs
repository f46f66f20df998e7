#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::http::Request;

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the node writes about one request, without dates.
fn written(access: bool, outcome: &Result<Reply, Refusal>) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    let request = Request::post("/webhook/bot1?bot_id=a&secret=b").header("x-tt-logid", "log-1");
    let (head, ()) = request.body(()).unwrap().into_parts();
    tracing::subscriber::with_default(subscriber, || {
        let client = Some("203.0.113.7".parse().unwrap());
        Report::new(access).request(&head, None, client, Duration::from_micros(3140), outcome);
    });
    String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn an_access_line_tells_method_path_status_result_time_and_client_but_no_query() {
    assert_eq!(
        written(true, &Ok(Reply::Accepted)),
        " INFO access: POST /webhook/bot1 200 accepted 3.1 ms 203.0.113.7 log_id=\"log-1\"\n"
    );
    assert_eq!(written(false, &Ok(Reply::Accepted)), "");
}

#[test]
fn a_refusal_is_logged_with_its_reason_and_its_access_line_is_an_error() {
    let refusal = |code| Err(Refusal::new(code, "because"));
    assert_eq!(
        written(true, &refusal(Code::QueueFull)),
        "ERROR openclaw_ingest::report: refused: because bot=\"\" client=203.0.113.7 code=\"queue_full\" left_out=0\n\
         ERROR access: POST /webhook/bot1 503 queue_full 3.1 ms 203.0.113.7 log_id=\"log-1\"\n"
    );
    assert!(
        written(false, &refusal(Code::BadSignature)).starts_with(" WARN openclaw_ingest::report: refused: because")
    );
    assert!(written(true, &refusal(Code::BadSignature)).contains("ERROR access: POST /webhook/bot1 401 bad_signature"));
}

#[test]
fn a_flood_is_one_line_a_second_that_says_how_much_it_left_out() {
    let throttle = Throttle::default();
    let lines: Vec<u64> = (0..2500)
        .filter_map(|at| throttle.open(Duration::from_millis(at)))
        .collect();
    assert_eq!(lines, [0, 999, 999]);
}
