//! For every chapter, operation, and role: allowed or refused as the table says.

use tcp_socket::base::principals::{Operation, Role};
use tcp_socket::base::tls::ClientOptions;
use tests::{apply, test};

use crate::chapters::{CALLERS, CHAPTERS, Chapter, Mode, Running, file, with_token};

/// How a server responded to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Allowed,
    Unauthenticated,
    Forbidden,
}

use Outcome::{Allowed, Forbidden, Unauthenticated};

/// Returns what the table says.
pub fn expected(operation: Operation, role: Option<Role>) -> Outcome {
    match role {
        None => Unauthenticated,
        Some(role) if operation.roles().contains(&role) => Allowed,
        Some(_) => Forbidden,
    }
}

/// Returns the outcome of an attempt, or `None` if the chapter has no such operation.
pub async fn attempt(
    chapter: Chapter,
    url: &str,
    options: &ClientOptions,
    operation: Operation,
) -> Option<Outcome> {
    let station = if operation == Operation::RecordOther { "rome-7" } else { "oslo-1" };
    match chapter {
        Chapter::Tcp => over_tcp(url, options, operation, station).await,
        Chapter::Http => over_http(url, options, operation, station).await,
        Chapter::WebSocket => over_websocket(url, options, operation, station).await,
        Chapter::Grpc => over_grpc(url, options, operation, station).await,
    }
}

async fn over_tcp(
    url: &str,
    options: &ClientOptions,
    operation: Operation,
    station: &str,
) -> Option<Outcome> {
    use tcp_socket::{Client, Error, Metric, Reading};
    let client = Client::connect_with_tls(url, options).await.unwrap();
    let reading = Reading { station: station.into(), metric: Metric::Wind, value: 7.0, recorded_at: 0 };
    let result = match operation {
        Operation::Subscribe => client.watch("oslo-1").await.map(drop),
        Operation::RecordOwn | Operation::RecordOther => client.record(&[reading]).await.map(drop),
        _ => return None,
    };
    client.close().await;
    Some(match result {
        Ok(()) => Allowed,
        Err(Error::Refused(refusal)) if refusal.code == 25 => Unauthenticated,
        Err(Error::Refused(refusal)) if refusal.code == 26 => Forbidden,
        Err(other) => panic!("{other}"),
    })
}

async fn over_http(
    url: &str,
    options: &ClientOptions,
    operation: Operation,
    station: &str,
) -> Option<Outcome> {
    use http_rest::{Client, Error, Metric, Reading, Station};
    let client = Client::with_tls(url, options).unwrap();
    let reading = Reading { station: station.into(), metric: Metric::Wind, value: 7.0, recorded_at: 0 };
    let new = Station { id: "new".into(), name: "New".into(), latitude: None, longitude: None };
    let result = match operation {
        Operation::Read => client.stations(10).await.map(drop),
        Operation::Subscribe => client.watch(None).await.map(drop),
        Operation::RecordOwn | Operation::RecordOther => client.record(&[reading]).await.map(drop),
        Operation::Manage => match client.create_station(&new).await {
            Ok(created) => client.delete_station("new", &created.etag).await,
            Err(error) => Err(error),
        },
        Operation::Chat => return None,
    };
    Some(match result {
        Ok(()) => Allowed,
        Err(Error::Problem(problem)) if problem.status == 401 => Unauthenticated,
        Err(Error::Problem(problem)) if problem.status == 403 => Forbidden,
        Err(other) => panic!("{other}"),
    })
}

async fn over_websocket(
    url: &str,
    options: &ClientOptions,
    operation: Operation,
    station: &str,
) -> Option<Outcome> {
    use websocket::client::Error;
    use websocket::{Client, Metric, Reading};
    let client = Client::with_tls(url, websocket::limits::Timeouts::default(), options);
    let reading = Reading { station: station.into(), metric: Metric::Wind, value: 7.0, recorded_at: 0 };
    let result = match operation {
        Operation::Read => client.readings("oslo-1", 1).await.map(drop),
        Operation::Subscribe => client.live(&[], &[]).await.map(drop),
        Operation::RecordOwn | Operation::RecordOther => client.record(&[reading]).await.map(drop),
        Operation::Chat => client.chat("lobby", "ada").await.map(drop),
        Operation::Manage => return None,
    };
    client.close().await;
    Some(match result {
        Ok(()) => Allowed,
        Err(error @ Error::Closed { code, .. }) => {
            assert!(!error.may_have_been_executed());
            if code == 4401 {
                Unauthenticated
            } else {
                assert_eq!(code, 4403);
                Forbidden
            }
        }
        Err(other) => panic!("{other}"),
    })
}

async fn over_grpc(
    url: &str,
    options: &ClientOptions,
    operation: Operation,
    station: &str,
) -> Option<Outcome> {
    use grpc::proto::{Metric, Reading};
    use grpc::{Client, Error, Options};
    let client = Client::new(url, &Options { tls: options.clone(), ..Options::default() }).unwrap();
    let (station, metric) = (station.to_owned(), Metric::Wind.into());
    let reading = Reading { station, metric, value: 7.0, recorded_at: 1 };
    let result = match operation {
        Operation::Subscribe => client.monitor().await.map(drop),
        Operation::RecordOwn | Operation::RecordOther => {
            let recorded = client.record(std::slice::from_ref(&reading)).await.map(drop);
            let uploaded = client.upload(futures::stream::iter([reading]), None).await.map(drop);
            assert_eq!(outcome_of_grpc(&recorded), outcome_of_grpc(&uploaded));
            recorded
        }
        _ => return None,
    };
    fn outcome_of_grpc(result: &Result<(), Error>) -> Outcome {
        match result {
            Ok(()) => Allowed,
            Err(Error::Status(failure)) if failure.code == tonic::Code::Unauthenticated => Unauthenticated,
            Err(Error::Status(failure)) if failure.code == tonic::Code::PermissionDenied => Forbidden,
            Err(other) => panic!("{other}"),
        }
    }
    Some(outcome_of_grpc(&result))
}

/// Tries every operation as every caller.
async fn check(chapter: Chapter, server: &Running, options: impl Fn(&str) -> Option<ClientOptions>) {
    let operator = options("operator").unwrap();
    let first = attempt(chapter, &server.url, &operator, Operation::RecordOwn).await;
    assert_eq!(first, Some(Allowed)); // Now there is a station to read.
    for operation in Operation::ALL {
        for (role, name) in CALLERS {
            let Some(options) = options(name) else { continue };
            let outcome = attempt(chapter, &server.url, &options, operation).await;
            let expected = expected(operation, role);
            assert!(
                outcome.is_none_or(|outcome| outcome == expected),
                "{chapter:?} {operation:?} {name}: {outcome:?}"
            );
        }
    }
}

/// Generates the test of a chapter.
macro_rules! table {
    ($($test:ident: $chapter:expr,)*) => {$(
        #[apply(test!)]
        async fn $test() {
            let server = $chapter.start(Mode::Checked).await;
            // Nobody has no token. A wrong one is refused in other tests.
            check($chapter, &server, |name| {
                Some(if name == "nobody" { ClientOptions::default() } else { with_token(name) })
            })
            .await;
            server.stop().await;
        }
    )*};
}

table! {
    the_table_holds_over_tcp: Chapter::Tcp,
    the_table_holds_over_http: Chapter::Http,
    the_table_holds_over_websocket: Chapter::WebSocket,
    the_table_holds_over_grpc: Chapter::Grpc,
}

#[apply(test!)]
async fn certificates_name_the_caller_everywhere() {
    for chapter in CHAPTERS {
        let server = chapter.start(Mode::Tls).await;
        let options = |name: &str| {
            let (ca, identity) = (Some(file("ca.pem").into()), Some(file(&format!("client-{name}.pem"))));
            Some(ClientOptions { ca, identity, ..ClientOptions::default() })
        };
        check(chapter, &server, options).await;
        server.stop().await;
    }
}

#[apply(test!)]
async fn without_principals_everybody_may_do_everything_even_with_a_token() {
    for chapter in CHAPTERS {
        let server = chapter.start(Mode::Open).await;
        for options in [ClientOptions::default(), with_token("nobody")] {
            // A station must exist before it can be watched.
            attempt(chapter, &server.url, &options, Operation::RecordOwn).await;
            for operation in Operation::ALL {
                let outcome = attempt(chapter, &server.url, &options, operation).await;
                assert!(
                    outcome.is_none_or(|outcome| outcome == Allowed),
                    "{chapter:?} {operation:?} {outcome:?}"
                );
            }
        }
        server.stop().await;
    }
}
