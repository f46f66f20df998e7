#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::sync::atomic::AtomicUsize;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use tower::ServiceExt as _;

use super::*;

async fn get_page(router: &Router, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn readiness_follows_a_link_at_once_and_liveness_never_does() {
    let health = Health::new();
    let (link, receiver) = watch::channel(Link::Down("not connected yet".to_owned()));
    health.add_link("rabbitmq", Need::Required, receiver);
    let router = health_routes(&health, &Monitoring::default());

    let not_ready = r#"{"ready":false,"missing":["rabbitmq"],"degraded":[]}"#.to_owned();
    let ready = r#"{"ready":true,"missing":[],"degraded":[]}"#.to_owned();
    let expectations = [
        (None, StatusCode::SERVICE_UNAVAILABLE, &not_ready),
        (Some(Link::Up), StatusCode::OK, &ready),
        (
            Some(Link::Blocked("low on memory".to_owned())),
            StatusCode::SERVICE_UNAVAILABLE,
            &not_ready,
        ),
        (Some(Link::Up), StatusCode::OK, &ready),
    ];
    for (state, code, body) in expectations {
        if let Some(state) = state {
            link.send(state).unwrap();
        }
        assert_eq!(get_page(&router, "/readyz").await, (code, body.clone()));
        assert_eq!(get_page(&router, "/healthz").await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_degradable_dependency_does_not_take_readiness_away() {
    let health = Health::new();
    health.add_probe("redis", Need::Degradable, || async { Err("refused".to_owned()) });
    health.add_probe("postgresql", Need::Required, || async { Ok(()) });
    let status = health.status().await;
    assert!(status.ready);
    assert_eq!(status.degraded, ["redis"]);
    assert!(telemetry::render().contains("openclaw_dependency_up{name=\"redis\"} 0"));
    assert!(telemetry::render().contains("openclaw_dependency_up{name=\"postgresql\"} 1"));
}

#[tokio::test]
async fn a_name_is_up_when_all_its_parts_are() {
    let health = Health::new();
    let (_up, up) = watch::channel(Link::Up);
    let (_down, down) = watch::channel(Link::Down("reconnecting".to_owned()));
    health.add_link("rabbitmq", Need::Degradable, up.clone());
    health.add_link("rabbitmq", Need::Required, down);
    health.add_link("rabbitmq", Need::Degradable, up);
    assert_eq!(health.status().await.missing, ["rabbitmq"]);
}

#[tokio::test]
async fn a_silent_dependency_counts_as_missing_within_the_second() {
    let health = Health::new();
    health.add_probe("postgresql", Need::Required, std::future::pending);
    let begun = Instant::now();
    assert_eq!(health.status().await.missing, ["postgresql"]);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn many_questions_at_once_ask_the_dependency_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let health = Health::new();
    let counter = asked.clone();
    health.add_probe("redis", Need::Required, move || {
        let counter = counter.clone();
        async move {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(())
        }
    });
    let answers = join_all((0..50).map(|_| health.status())).await;
    assert!(answers.iter().all(|status| status.ready));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn draining_is_not_ready_and_says_so() {
    let health = Health::new();
    health.drain();
    let router = health_routes(&health, &Monitoring::default());
    let body = r#"{"ready":false,"missing":[],"degraded":[],"draining":true}"#.to_owned();
    assert_eq!(
        get_page(&router, "/readyz").await,
        (StatusCode::SERVICE_UNAVAILABLE, body)
    );
    assert_eq!(get_page(&router, "/healthz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn any_configured_path_is_served() {
    for path in ["/", "/live", "/a/{b}", "/:c", "/*d", "/readyz"] {
        let monitoring = Monitoring {
            health_path: path.to_owned(),
            metrics_path: path.to_owned(),
            ..Monitoring::default()
        };
        // `{` is not legal in a request line's path as it is.
        let asked = path.replace('{', "%7B").replace('}', "%7D");
        let health = health_routes(&Health::new(), &monitoring);
        let metrics = metrics_router(&monitoring);
        if asked == path {
            assert_eq!(get_page(&health, path).await.0, StatusCode::OK, "{path}");
            let (code, page) = get_page(&metrics, path).await;
            assert_eq!(code, StatusCode::OK, "{path}");
            assert!(page.contains("openclaw_events_total{result=\"accepted\"}"));
        }
    }
}

#[tokio::test]
async fn metrics_stay_current_without_questions() {
    let health = Health::new();
    let (link, receiver) = watch::channel(Link::Up);
    health.add_link("observed", Need::Required, receiver);
    let stop = CancellationToken::new();
    let observer = tokio::spawn({
        let (health, stop) = (health.clone(), stop.clone());
        async move { health.observe(Duration::from_millis(5), stop).await }
    });
    for (state, line) in [
        (Link::Up, "openclaw_dependency_up{name=\"observed\"} 1"),
        (
            Link::Down("cut".to_owned()),
            "openclaw_dependency_up{name=\"observed\"} 0",
        ),
        (Link::Up, "openclaw_dependency_up{name=\"observed\"} 1"),
    ] {
        link.send(state).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !telemetry::render().contains(line) {
            assert!(Instant::now() < deadline, "no {line}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    stop.cancel();
    observer.await.unwrap();
}

/// What the log says meanwhile.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        (lines, guard)
    }

    fn count(&self, text: &str) -> usize {
        String::from_utf8(self.0.lock().unwrap().clone())
            .unwrap()
            .matches(text)
            .count()
    }
}

/// An observed node for so long, a second at a time.
async fn observed(health: &Health, time: Duration, mut each_second: impl FnMut(u64)) {
    let stop = CancellationToken::new();
    let observer = health.observe(Duration::from_secs(30), stop.clone());
    let script = async {
        for second in 0..time.as_secs() {
            each_second(second);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        stop.cancel();
    };
    tokio::join!(observer, script);
}

#[tokio::test(start_paused = true)]
async fn a_start_is_no_error_and_whoever_answers_is_named_within_two_seconds() {
    let (lines, _guard) = Lines::listen();
    let health = Health::new();
    let (link, receiver) = watch::channel(Link::Connecting);
    health.add_link("rabbitmq", Need::Required, receiver);
    let answers = Arc::new(AtomicBool::new(false));
    let probed = Arc::clone(&answers);
    health.add_probe("redis", Need::Degradable, move || {
        let up = probed.load(Ordering::SeqCst);
        async move { up.then_some(()).ok_or_else(|| "not connected".to_owned()) }
    });
    observed(&health, Duration::from_secs(4), |second| {
        if second == 1 {
            link.send(Link::Up).unwrap();
            answers.store(true, Ordering::SeqCst);
        }
    })
    .await;
    assert_eq!(
        (
            lines.count("ERROR"),
            lines.count("redis answers"),
            lines.count("rabbitmq answers")
        ),
        (0, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn what_heals_by_itself_is_no_error_and_what_does_not_is_one() {
    let (lines, _guard) = Lines::listen();
    let health = Health::new();
    let (link, receiver) = watch::channel(Link::Up);
    health.add_link("rabbitmq", Need::Required, receiver);
    observed(&health, Duration::from_secs(30), |second| match second {
        2 | 12 => drop(link.send(Link::Down("cut".to_owned()))),
        5 | 25 => drop(link.send(Link::Up)),
        _ => {}
    })
    .await;
    assert_eq!(lines.count("ERROR"), 1, "three seconds are none, thirteen are one");
    assert_eq!(lines.count("rabbitmq answers"), 2, "at the start, and after the error");
}
