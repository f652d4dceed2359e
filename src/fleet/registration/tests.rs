//! Instances that come, renew their leases, and are taken over or not.

use super::*;
use crate::chance::Chance;
use crate::fleet::ProbeSettings;
use crate::instance::scripted::Scripted;
use crate::tasks::Tasks;

fn fleet() -> Arc<Fleet> {
    let settings = Settings {
        networks: network::loopback(),
        ourselves: vec!["0.0.0.0:7070".parse().unwrap()],
        calls_in_flight_max: 10,
        rate: None,
        retries: Share::default(),
        take_over: TakeOver::SameKey,
    };
    Fleet::new(
        Arc::new(|_| Ok(Scripted::new("A", []))),
        ProbeSettings::default(),
        crate::domain::health::Settings::default(),
        settings,
        Tasks::new(),
        Chance::default(),
    )
}

fn asker(key: &str, rank: Rank) -> Asker {
    let key = key.into();
    Asker { key, rank }
}

fn registration(id: &str, address: &str, incarnation: u64) -> Registration {
    Registration {
        id: InstanceId::parse(id).unwrap(),
        endpoint: Endpoint::parse(address).unwrap(),
        labels: BTreeMap::new(),
        weight: 1,
        incarnation,
        lease: Duration::from_secs(30),
    }
}

async fn check(
    fleet: &Arc<Fleet>,
    id: &str,
    address: &str,
    incarnation: u64,
    expected: Result<(), Reason>,
) {
    let registration = registration(id, address, incarnation);
    let found = fleet
        .register(registration, &asker("one", Rank::Ordinary))
        .await;
    assert_eq!(
        found.map(|_| ()).map_err(|failure| failure.reason),
        expected,
        "{id} {address} {incarnation}"
    );
}

#[tokio::test(start_paused = true)]
async fn no_door_of_ours_is_an_instance() {
    let fleet = fleet();
    fleet.add_own_door("127.0.0.1:7071".parse().unwrap());
    let refused = Err(Reason::AddressNotAllowed);
    check(&fleet, "A", "127.0.0.1:7070", 1, refused).await;
    check(&fleet, "A", "127.0.0.1:7071", 1, refused).await;
    check(&fleet, "A", "127.0.0.1:7072", 1, Ok(())).await;
    check(&fleet, "B", "127.0.0.2:7071", 1, Ok(())).await;
}

#[test]
fn an_address_of_which_the_system_cannot_say_whose_it_is_may_be_ours() {
    let refused = |code| can_be_ours::<()>(Err(io::Error::from_raw_os_error(code)));
    let (no_descriptor, not_available) = (24, 99);
    assert!(can_be_ours(Ok(())));
    assert!(!refused(not_available));
    assert!(refused(no_descriptor));
}

#[tokio::test(start_paused = true)]
async fn a_newer_incarnation_replaces_and_an_older_one_is_refused() {
    let fleet = fleet();
    check(&fleet, "A", "127.0.0.1:1", 5, Ok(())).await;
    let first = fleet.view().members()[0].serial;
    check(&fleet, "A", "127.0.0.1:1", 5, Ok(())).await;
    assert_eq!(
        fleet.view().members()[0].serial,
        first,
        "a renewal replaces nothing"
    );
    check(&fleet, "A", "127.0.0.1:2", 5, Err(Reason::IncarnationStale)).await;
    check(&fleet, "A", "127.0.0.1:2", 4, Err(Reason::IncarnationStale)).await;
    check(&fleet, "A", "127.0.0.1:2", 6, Ok(())).await;
    assert_ne!(fleet.view().members()[0].serial, first);
    let (id, one) = (
        InstanceId::parse("A").unwrap(),
        asker("one", Rank::Ordinary),
    );
    assert_eq!(
        fleet.deregister(&id, 5, &one).await.unwrap_err().reason,
        Reason::IncarnationStale
    );
    fleet.deregister(&id, 6, &one).await.unwrap();
    assert_eq!(
        fleet.deregister(&id, 6, &one).await.unwrap_err().reason,
        Reason::RegistrationUnknown
    );
    assert!(fleet.view().members().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_socket_in_the_file_system_is_never_registered() {
    let refused = Err(Reason::AddressNotAllowed);
    check(&fleet(), "A", "unix:/run/a.sock", 1, refused).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_belongs_to_its_key_where_the_config_says_so_and_to_operators() {
    let fleet = fleet();
    check(&fleet, "A", "127.0.0.1:1", 1, Ok(())).await;
    let id = InstanceId::parse("A").unwrap();
    let other = asker("other", Rank::Ordinary);
    let taken = fleet
        .register(registration("A", "127.0.0.1:2", 2), &other)
        .await;
    assert_eq!(taken.unwrap_err().reason, Reason::ScopeMissing);
    let renewed = fleet
        .register(registration("A", "127.0.0.1:1", 1), &other)
        .await;
    assert_eq!(renewed.unwrap_err().reason, Reason::ScopeMissing);
    let gone = fleet.deregister(&id, 9, &other).await;
    assert_eq!(gone.unwrap_err().reason, Reason::ScopeMissing);
    let operator = asker("other", Rank::Operator);
    let taken = fleet
        .register(registration("A", "127.0.0.1:2", 2), &operator)
        .await;
    assert!(taken.is_ok());
    assert!(
        fleet.deregister(&id, 9, &other).await.is_ok(),
        "the key that registered it last"
    );
}

#[tokio::test(start_paused = true)]
async fn addresses_outside_the_networks_and_our_own_doors_are_refused() {
    let fleet = fleet();
    check(&fleet, "A", "10.0.0.1:1", 1, Err(Reason::AddressNotAllowed)).await;
    check(
        &fleet,
        "A",
        "169.254.169.254:80",
        1,
        Err(Reason::AddressNotAllowed),
    )
    .await;
    check(
        &fleet,
        "A",
        "127.0.0.1:7070",
        1,
        Err(Reason::AddressNotAllowed),
    )
    .await;
    check(&fleet, "A", "[::1]:7071", 1, Ok(())).await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_does_not_renew_leaves_and_one_that_does_stays() {
    let fleet = fleet();
    check(&fleet, "A", "127.0.0.1:1", 1, Ok(())).await;
    check(&fleet, "B", "127.0.0.1:2", 1, Ok(())).await;
    time::advance(Duration::from_secs(29)).await;
    check(&fleet, "B", "127.0.0.1:2", 1, Ok(())).await;
    fleet.remove_expired(Instant::now());
    assert_eq!(fleet.view().members().len(), 2);
    time::advance(Duration::from_secs(2)).await;
    fleet.remove_expired(Instant::now());
    let view = fleet.view();
    let left: Vec<_> = view
        .members()
        .iter()
        .map(|member| member.id().as_str())
        .collect();
    assert_eq!(left, ["B"]);
}

/// Views that were published while all of them came, and while all of them went, at the same time.
async fn views_of_a_crowd(count: usize) -> [u64; 2] {
    let fleet = fleet();
    let version = || *fleet.changes().borrow();
    let id = |at: usize| InstanceId::parse(&format!("w{at:05}")).unwrap();
    let mut crowd = tokio::task::JoinSet::new();
    for at in 0..count {
        let fleet = Arc::clone(&fleet);
        crowd.spawn(async move {
            let registration = registration(id(at).as_str(), "127.0.0.1:5", 1);
            let one = asker("one", Rank::Ordinary);
            fleet.register(registration, &one).await.unwrap();
            assert!(fleet.view().find(&id(at)).is_some(), "{at} is shown");
        });
    }
    while let Some(ended) = crowd.join_next().await {
        ended.unwrap();
    }
    assert_eq!(fleet.view().members().len(), count);
    let came = version();
    for at in 0..count {
        let fleet = Arc::clone(&fleet);
        crowd.spawn(async move {
            let one = asker("one", Rank::Ordinary);
            fleet.deregister(&id(at), 1, &one).await.unwrap();
            assert!(fleet.view().find(&id(at)).is_none(), "{at} is gone");
        });
    }
    while let Some(ended) = crowd.join_next().await {
        ended.unwrap();
    }
    assert_eq!(fleet.view().members().len(), 0);
    [came, version() - came]
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_comes_or_goes_at_once_is_shown_in_few_views() {
    const COUNT: usize = 5000;
    // Small fleets are shown at once, and a turn of the scheduler has sixty tasks.
    let few = FLEET_SHOWN_AT_ONCE_MAX as u64 + COUNT as u64 / 50;
    for views in views_of_a_crowd(COUNT).await {
        assert!(views <= few, "{views} views");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_registers_and_does_not_wait_is_shown_all_the_same() {
    let fleet = fleet();
    let one = asker("one", Rank::Ordinary);
    for at in 0..=FLEET_SHOWN_AT_ONCE_MAX {
        let registration = registration(&format!("w{at:05}"), "127.0.0.1:5", 1);
        fleet.register(registration, &one).await.unwrap();
    }
    let last = registration("last", "127.0.0.1:5", 1);
    let (_, unshown) = fleet.enroll(last, &one).unwrap();
    let id = InstanceId::parse("last").unwrap();
    assert!(fleet.view().find(&id).is_none(), "not yet");
    // As when its caller has gone.
    drop(unshown.show_with_others());
    assert!(fleet.view().find(&id).is_some());
    assert!(!fleet.is_behind.load(Ordering::Acquire), "and the next is");
}
