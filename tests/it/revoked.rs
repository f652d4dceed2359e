//! Certificates of callers that are good no more: refused, and cut off where they are connected.

use orchestrator::ingress::listener::secure::{ClientCertificate, OverdueList};

use crate::front_tls::{house, route};
use crate::raw::soon;
use crate::stage::authority::{Authority, Caller, DOOR, Files, Time};
use crate::stage::{App, Config, embedded, start};

/// Whether whoever shows this is served over a new connection.
async fn is_served(caller: &Caller, app: &App) -> bool {
    match caller.channel(app.address()).await {
        Ok(channel) => route(channel).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn a_certificate_that_is_revoked_is_refused_and_cut_off_and_others_go_on() {
    for certificate in [ClientCertificate::Required, ClientCertificate::Optional] {
        let authority = Authority::new();
        let pair = authority.pair(DOOR, Time::Valid);
        let files = Files::new(&pair, Some((&authority, certificate)));
        files.put("crl.pem", &authority.revoked(&[], Time::Valid));
        let app = house(&files).await;
        let shown = ["one.internal", "two.internal"];
        let shown = shown.map(|name| authority.pair(name, Time::Valid));
        let [one, two] = shown
            .each_ref()
            .map(|pair| Caller::new(&authority, Some(pair)));
        let (of_one, of_two) = (
            one.channel(app.address()).await.unwrap(),
            two.channel(app.address()).await.unwrap(),
        );
        route(of_one.clone()).await.unwrap();
        route(of_two.clone()).await.unwrap();

        files.put("crl.pem", &authority.revoked(&[&shown[0]], Time::Valid));
        // Its connection is cut, and a new one is not made.
        soon(async { while route(of_one.clone()).await.is_ok() {} }).await;
        assert!(!is_served(&one, &app).await);
        assert!(is_served(&two, &app).await);
        // That of the other is still there.
        route(of_two.clone()).await.unwrap();

        // A list that cannot be used changes nothing.
        files.put("crl.pem", "nothing");
        assert!(!is_served(&one, &app).await);
        route(of_two).await.unwrap();
        files.put("crl.pem", &authority.revoked(&[], Time::Valid));
        soon(async { while !is_served(&one, &app).await {} }).await;
    }
}

#[tokio::test]
async fn a_certificate_of_whom_no_list_speaks_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pair = authority.pair(DOOR, Time::Valid);
    let files = Files::new(&pair, Some((&authority, ClientCertificate::Required)));
    files.put("crl.pem", &other.revoked(&[], Time::Valid));
    let app = house(&files).await;
    let shown = authority.pair("one.internal", Time::Valid);
    let one = Caller::new(&authority, Some(&shown));
    assert!(!is_served(&one, &app).await);
    let both = authority.revoked(&[], Time::Valid) + &other.revoked(&[], Time::Valid);
    files.put("crl.pem", &both);
    soon(async { while !is_served(&one, &app).await {} }).await;
}

#[tokio::test]
async fn an_authority_that_is_trusted_no_more_takes_its_callers_with_it() {
    let (authority, next) = (Authority::new(), Authority::new());
    let pair = authority.pair(DOOR, Time::Valid);
    let files = Files::new(&pair, Some((&authority, ClientCertificate::Required)));
    let app = house(&files).await;
    let old = authority.pair("one.internal", Time::Valid);
    let old = Caller::new(&authority, Some(&old));
    let of_old = old.channel(app.address()).await.unwrap();
    route(of_old.clone()).await.unwrap();
    let pem = |authority: &Authority| String::from_utf8(authority.pem()).unwrap();
    // With both, nobody notices.
    files.put("ca.pem", &(pem(&authority) + &pem(&next)));
    let new = next.pair("one.internal", Time::Valid);
    let new = Caller::new(&authority, Some(&new));
    soon(async { while !is_served(&new, &app).await {} }).await;
    assert!(is_served(&old, &app).await);
    route(of_old.clone()).await.unwrap();
    files.put("ca.pem", &pem(&next));
    soon(async { while route(of_old.clone()).await.is_ok() {} }).await;
    assert!(!is_served(&old, &app).await);
    assert!(is_served(&new, &app).await);
}

#[tokio::test]
async fn a_list_that_is_overdue_is_none_unless_the_config_says_otherwise() {
    let authority = Authority::new();
    let pair = authority.pair(DOOR, Time::Valid);
    let files = Files::new(&pair, Some((&authority, ClientCertificate::Required)));
    files.put("crl.pem", &authority.revoked(&[], Time::Past));
    let shown = ["one.internal", "two.internal"];
    let [first, second] = shown.map(|name| authority.pair(name, Time::Valid));
    let [one, two] = [&first, &second].map(|pair| Caller::new(&authority, Some(pair)));

    let app = house(&files).await;
    assert!(!is_served(&one, &app).await);
    files.put("crl.pem", &authority.revoked(&[&second], Time::Valid));
    soon(async { while !is_served(&one, &app).await {} }).await;
    let of_one = one.channel(app.address()).await.unwrap();
    route(of_one.clone()).await.unwrap();
    // A list that counts does not give way to one that does not: the next list that does is the next one here.
    files.put("crl.pem", &authority.revoked(&[&first], Time::Past));
    files.put("crl.pem", &authority.revoked(&[], Time::Valid));
    soon(async { while !is_served(&two, &app).await {} }).await;
    route(of_one).await.unwrap();

    files.put("crl.pem", &authority.revoked(&[&second], Time::Past));
    let mut tls = files.settings();
    tls.clients.as_mut().unwrap().overdue = OverdueList::Accepted;
    let app = start(Config {
        tls: Some(tls),
        ..embedded()
    })
    .await;
    assert!(is_served(&one, &app).await);
    assert!(!is_served(&two, &app).await, "what it says still counts");
}
