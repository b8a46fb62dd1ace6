//! `/readings`: checks, filters, and pages.

use http_rest::Limits;
use http_rest::client::ReadingQuery;
use http_rest::limits::READINGS_PER_STATION;
use http_rest::{Metric, Reading};
use tests::{apply, test};

use crate::raw::{JSON, Local, batch, request};

fn reading(metric: Metric, recorded_at: u64) -> Reading {
    Reading { station: "s".into(), metric, value: 1.0, recorded_at }
}

#[apply(test!)]
async fn every_invalid_field_is_named_up_to_a_limit() {
    let server = Local::start(Limits::default()).await;
    let good = r#"{"station":"a","metric":"wind","value":1,"recorded_at":1}"#;
    let bad = [
        r#"{"station":"A","metric":"wind","value":1,"recorded_at":1}"#,
        r#"{"station":"a","metric":"rain","value":1,"recorded_at":1}"#,
        r#"{"station":"a","metric":"humidity","value":101,"recorded_at":1}"#,
        r#"{"station":"a","metric":"wind","value":1,"recorded_at":-1}"#,
        r#"{"station":"","metric":"","value":1,"recorded_at":253402300800000}"#,
    ];
    let body = format!(r#"{{"readings":[{good},{}]}}"#, bad.join(","));
    let problem = request(server.addr, "POST", "/readings", &[JSON], &body).await.problem();
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    assert_eq!(problem["status"], 422);
    assert_eq!(
        pointers,
        [
            "#/readings/1/station",
            "#/readings/2/metric",
            "#/readings/3/value",
            "#/readings/4/recorded_at",
            "#/readings/5/station",
            "#/readings/5/metric",
            "#/readings/5/recorded_at",
        ]
    );

    let body = format!(r#"{{"readings":[{}]}}"#, vec![bad[0]; 10_000].join(","));
    let response = request(server.addr, "POST", "/readings", &[JSON], &body).await;
    assert_eq!(response.problem()["errors"].as_array().unwrap().len(), 50);
    assert_eq!(response.problem()["detail"], "10000 fields are invalid; the first 50 are listed");

    let wrong_shape =
        request(server.addr, "POST", "/readings", &[JSON], "{\n\"readings\": 1}").await.problem();
    assert_eq!(wrong_shape["status"], 422);
    assert!(wrong_shape["detail"].as_str().unwrap().ends_with("at line 2 column 13"), "{wrong_shape}");
    server.stop().await;
}

#[apply(test!)]
async fn a_batch_is_all_or_nothing() {
    let server = Local::start(Limits::default()).await;
    for count in [0, 10_001] {
        let response = request(server.addr, "POST", "/readings", &[JSON], &batch("a", count)).await;
        assert_eq!(response.problem()["status"], 422, "{count}");
    }
    let mixed = r#"{"readings":[{"station":"a","metric":"wind","value":1,"recorded_at":1},
                                {"station":"a","metric":"wind","value":-1,"recorded_at":1}]}"#;
    assert_eq!(request(server.addr, "POST", "/readings", &[JSON], mixed).await.status, 422);
    assert_eq!(
        request(server.addr, "GET", "/readings?station=a", &[], "").await.status,
        404,
        "nothing was kept"
    );
    let most = request(server.addr, "POST", "/readings", &[JSON], &batch("a", 10_000)).await;
    assert_eq!(most.json()["accepted"], 10_000);
    server.stop().await;
}

#[apply(test!)]
async fn readings_are_filtered_and_paged_without_gaps_or_repeats() {
    let server = Local::start(Limits::default()).await;
    let client = server.client();
    let all: Vec<Reading> =
        (0..10).map(|i| reading(if i % 2 == 0 { Metric::Wind } else { Metric::Humidity }, i)).collect();
    assert_eq!(client.record(&all).await.unwrap(), 10);
    let times = |readings: &[Reading]| readings.iter().map(|r| r.recorded_at).collect::<Vec<_>>();
    let query = ReadingQuery { station: "s".into(), ..ReadingQuery::default() };

    let latest_first = client.readings(&query).await.unwrap();
    assert_eq!(times(&latest_first.items), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    assert_eq!(latest_first.next, None);

    let filtered = ReadingQuery {
        metric: Some(Metric::Wind),
        from: Some(2),
        to: Some(8),
        limit: Some(2),
        ..query.clone()
    };
    let page = client.readings(&filtered).await.unwrap();
    assert_eq!(times(&page.items), [6, 4]);
    // A reading recorded in between does not appear on a later page.
    client.record(&[reading(Metric::Wind, 3)]).await.unwrap();
    let page = client.more_readings(&page.next.unwrap()).await.unwrap();
    assert_eq!((times(&page.items), page.next), (vec![2], None));

    for wrong in [
        "",
        "?station=s&limit=0",
        "?station=s&metric=rain",
        "?station=s&from=-1",
        "?station=s&cursor=x",
        "?station=s&x=1",
    ] {
        let response = request(server.addr, "GET", &format!("/readings{wrong}"), &[], "").await;
        assert_eq!(response.problem()["status"], 400, "{wrong}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_page_from_before_a_restart_is_gone() {
    let server = Local::start(Limits::default()).await;
    let query = ReadingQuery { station: "s".into(), limit: Some(1), ..ReadingQuery::default() };
    let two = [reading(Metric::Wind, 0), reading(Metric::Wind, 1)];
    server.client().record(&two).await.unwrap();
    let next = server.client().readings(&query).await.unwrap().next.unwrap();
    server.stop().await;

    let server = Local::start(Limits::default()).await;
    server.client().record(&two).await.unwrap();
    let error = server.client().more_readings(&next).await.unwrap_err();
    assert_eq!(error.status(), Some(404));
    server.stop().await;
}

#[apply(test!)]
async fn the_newest_readings_push_out_the_oldest() {
    let server = Local::start(Limits::default()).await;
    let client = server.client();
    client.record(&[reading(Metric::Humidity, 0)]).await.unwrap();
    let ten_thousand = vec![reading(Metric::Wind, 1); 10_000];
    for _ in 0..READINGS_PER_STATION / 10_000 {
        let oldest =
            ReadingQuery { station: "s".into(), metric: Some(Metric::Humidity), ..ReadingQuery::default() };
        assert_eq!(client.readings(&oldest).await.unwrap().items.len(), 1, "it is still kept");
        client.record(&ten_thousand).await.unwrap();
    }
    let oldest =
        ReadingQuery { station: "s".into(), metric: Some(Metric::Humidity), ..ReadingQuery::default() };
    assert_eq!(client.readings(&oldest).await.unwrap().items, []);
    server.stop().await;
}
