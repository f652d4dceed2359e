//! Sessions as rows: how they are written down, and how they are counted again at a start.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Row, named_params};

use crate::domain::id::InstanceId;
use crate::domain::selection::Policy;
use crate::domain::session::gone::Gone;
use crate::domain::session::{Durability, Epoch, LossPolicy, SessionId};
use crate::store::book::{Book, Entry, Log, PostEntry, Posts, ReplyEntry};
use crate::store::record::{
    Counters, Hash, Owner, PostKey, ReplyTo, Session, SpawnKey, State, Taken, Terms,
};
use crate::store::shelf::Shelf;

/// Why what was written down cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// SQLite says so.
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    /// It makes no sense.
    #[error("{0}")]
    Senseless(String),
}

/// Numbers are kept in 64 bits with a sign: those of a caller may have any value, ours never come that far.
pub(super) fn signed(number: u64) -> i64 {
    number.cast_signed()
}

pub(super) fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn duration(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

fn senseless(what: &str, id: &str) -> Unreadable {
    Unreadable::Senseless(format!("session {id}: {what}"))
}

/// Writes a new session down and answers its row.
pub(super) fn insert(connection: &Connection, session: &Session) -> rusqlite::Result<i64> {
    let terms = &*session.terms;
    let (selection, hash_key) = match &terms.selection {
        Policy::Balanced => ("balanced", None),
        Policy::Ordered => ("ordered", None),
        Policy::Hash(key) => ("hash", Some(key)),
    };
    let text = |json: serde_json::Result<String>| {
        json.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
    };
    let mut statement = connection.prepare_cached(
        "INSERT INTO sessions (id, caller, spawn_key, spawn_request, token, targets, selection, hash_key, instance,
             epoch, owner, loss_policy, durability, labels, idle_ttl_ms, lifetime_ms, created_ms,
             to_instance_acked, to_instance_removed, to_instance_sender_seq,
             to_client_acked, to_client_removed, to_client_sender_seq, posts_forgotten)
         VALUES (:id, :caller, :spawn_key, :spawn_request, :token, :targets, :selection, :hash_key, :instance,
             :epoch, :owner, :loss_policy, :durability, :labels, :idle_ttl_ms, :lifetime_ms, :created_ms,
             0, 0, 0, 0, 0, 0, 0)",
    )?;
    statement.insert(named_params! {
        ":id": terms.id.as_str(),
        ":caller": terms.caller,
        ":spawn_key": terms.spawn.as_ref().map(|spawn| &spawn.key),
        ":spawn_request": terms.spawn.as_ref().map(|spawn| spawn.request.0),
        ":token": session.token.0,
        ":targets": text(serde_json::to_string(&terms.targets))?,
        ":selection": selection,
        ":hash_key": hash_key,
        ":instance": session.instance.as_str(),
        ":epoch": signed(session.epoch.number()),
        ":owner": session.owner.as_str(),
        ":loss_policy": match terms.loss_policy {
            LossPolicy::Fail => "fail",
            LossPolicy::Reassign => "reassign",
            LossPolicy::Replay => "replay",
        },
        ":durability": match terms.durability {
            Durability::Durable => "durable",
            Durability::None => "none",
        },
        ":labels": text(serde_json::to_string(&terms.labels))?,
        ":idle_ttl_ms": millis(terms.idle_ttl),
        ":lifetime_ms": terms.lifetime.map(millis),
        ":created_ms": signed(terms.created_ms),
    })
}

/// Writes down what has changed of a session, if somebody with this epoch and owner still holds the row.
pub(super) fn update(
    connection: &Connection,
    row: i64,
    before: &Session,
    session: &Session,
    posts_forgotten: u64,
) -> rusqlite::Result<usize> {
    let (closed_ms, reason) = match &session.state {
        State::Open => (None, None),
        State::Closed { reason, at_ms } => (Some(signed(*at_ms)), Some(&**reason)),
    };
    let (to_instance, to_client) = (session.to_instance, session.to_client);
    let mut statement = connection.prepare_cached(
        "UPDATE sessions SET token = :token, instance = :instance, epoch = :epoch, owner = :owner,
             closed_ms = :closed_ms, closed_reason = :closed_reason, spoken = :spoken,
             to_instance_acked = :ti_acked, to_instance_removed = :ti_removed, to_instance_sender_seq = :ti_seq,
             to_instance_removed_post = :ti_removed_post,
             to_client_acked = :tc_acked, to_client_removed = :tc_removed, to_client_sender_seq = :tc_seq,
             posts_forgotten = :posts_forgotten,
             gone_first = :gone_first, gone_last = :gone_last, gone_since = :gone_since,
             gone_posts_first = :posts_first, gone_posts_last = :posts_last, gone_posts_since = :posts_since
         WHERE number = :row AND epoch = :held_epoch AND owner = :held_by",
    )?;
    statement.execute(named_params! {
        ":row": row,
        ":held_epoch": signed(before.epoch.number()),
        ":held_by": before.owner.as_str(),
        ":token": session.token.0,
        ":instance": session.instance.as_str(),
        ":epoch": signed(session.epoch.number()),
        ":owner": session.owner.as_str(),
        ":closed_ms": closed_ms,
        ":closed_reason": reason,
        ":spoken": session.spoken.map(|epoch| signed(epoch.number())),
        ":ti_acked": signed(to_instance.acked),
        ":ti_removed": signed(to_instance.removed),
        ":ti_removed_post": signed(to_instance.removed_post),
        ":ti_seq": signed(to_instance.sender_seq),
        ":tc_acked": signed(to_client.acked),
        ":tc_removed": signed(to_client.removed),
        ":tc_seq": signed(to_client.sender_seq),
        ":posts_forgotten": signed(posts_forgotten),
        ":gone_first": signed(session.gone.first),
        ":gone_last": signed(session.gone.last),
        ":gone_since": signed(session.gone.since),
        ":posts_first": signed(session.gone_posts.first),
        ":posts_last": signed(session.gone_posts.last),
        ":posts_since": signed(session.gone_posts.since),
    })
}

/// What is counted of the messages of all sessions, by row.
#[derive(Default)]
struct Counted {
    to_instance: HashMap<i64, Vec<(u64, Entry)>>,
    to_client: HashMap<i64, Vec<(u64, Epoch, Entry)>>,
    posts: HashMap<i64, Vec<PostEntry>>,
}

/// Reads all sessions and counts their messages. Payloads are not read.
pub(super) fn load(connection: &Connection) -> Result<Vec<Shelf>, Unreadable> {
    let mut counted = count(connection)?;
    let mut statement = connection.prepare("SELECT * FROM sessions ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(shelf(row, &mut counted)?);
    }
    Ok(found)
}

fn count(connection: &Connection) -> rusqlite::Result<Counted> {
    let mut counted = Counted::default();
    let mut statement = connection.prepare(
        "SELECT session, position, client_seq, bytes FROM to_instance ORDER BY session, position",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let entry = Entry {
            sender_seq: unsigned(row.get(2)?),
            bytes: row.get(3)?,
            taken: Taken::No,
        };
        let log = counted.to_instance.entry(row.get(0)?).or_default();
        log.push((unsigned(row.get(1)?), entry));
    }
    let mut statement = connection.prepare(
        "SELECT session, seq, epoch, instance_seq, taken, bytes FROM to_client ORDER BY session, seq",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let entry = Entry {
            sender_seq: unsigned(row.get(3)?),
            bytes: row.get(5)?,
            taken: taken(row.get(4)?),
        };
        let log = counted.to_client.entry(row.get(0)?).or_default();
        log.push((
            unsigned(row.get(1)?),
            Epoch::new(unsigned(row.get(2)?)),
            entry,
        ));
    }
    count_posts(connection, &mut counted)?;
    Ok(counted)
}

fn count_posts(connection: &Connection, counted: &mut Counted) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT session, position, key, body, at_ms, reply_seq, reply_bytes FROM posts ORDER BY session, position",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key: Option<String> = row.get(2)?;
        let body: Option<[u8; 32]> = row.get(3)?;
        let reply: (Option<i64>, Option<usize>) = (row.get(5)?, row.get(6)?);
        let post = PostEntry {
            position: unsigned(row.get(1)?),
            key: key.zip(body).map(|(key, body)| {
                let body = Hash(body);
                Arc::new(PostKey { key, body })
            }),
            at_ms: unsigned(row.get(4)?),
            reply: reply.0.zip(reply.1).map(|(seq, bytes)| {
                let seq = unsigned(seq);
                ReplyEntry { seq, bytes }
            }),
        };
        counted.posts.entry(row.get(0)?).or_default().push(post);
    }
    Ok(())
}

pub(super) fn taken(flag: i64) -> Taken {
    if flag == 0 { Taken::No } else { Taken::Yes }
}

fn shelf(row: &Row<'_>, counted: &mut Counted) -> Result<Shelf, Unreadable> {
    let number: i64 = row.get("number")?;
    let id: String = row.get("id")?;
    let counters = |name: &str| -> rusqlite::Result<Counters> {
        let get = |what: &str| {
            row.get::<_, i64>(format!("{name}_{what}").as_str())
                .map(unsigned)
        };
        Ok(Counters {
            acked: get("acked")?,
            removed: get("removed")?,
            sender_seq: get("sender_seq")?,
            ..Counters::default()
        })
    };
    let mut session = session(row, &id)?;

    let entries = counted.to_instance.remove(&number).unwrap_or_default();
    let mut written = counters("to_instance")?;
    written.removed_post = later(row, "to_instance_removed_post")?;
    contiguous(&id, written.removed, entries.iter().map(|(at, _)| *at))?;
    let newest = entries.iter().map(|(_, entry)| entry.sender_seq).max();
    written.sender_seq = written.sender_seq.max(newest.unwrap_or(0));
    let to_instance = Log::restore(written, entries.into_iter().map(|(_, entry)| entry));

    let entries = counted.to_client.remove(&number).unwrap_or_default();
    let mut written = counters("to_client")?;
    contiguous(&id, written.removed, entries.iter().map(|(at, ..)| *at))?;
    if let Some((_, epoch, entry)) = entries.last() {
        session.spoken = Some(*epoch);
        if *epoch == session.epoch {
            written.sender_seq = entry.sender_seq;
        }
    }
    let to_client = Log::restore(written, entries.into_iter().map(|(.., entry)| entry));

    let forgotten = unsigned(row.get("posts_forgotten")?);
    let posts = Posts::restore(forgotten, counted.posts.remove(&number).unwrap_or_default());
    let book = Book::restore(session, to_instance, to_client, posts);
    let mut shelf = Shelf::new(book);
    shelf.row = number;
    Ok(shelf)
}

fn contiguous(
    id: &str,
    removed: u64,
    mut numbers: impl Iterator<Item = u64>,
) -> Result<(), Unreadable> {
    let mut expected = removed;
    let is_whole = numbers.all(|number| {
        expected += 1;
        number == expected
    });
    if is_whole {
        return Ok(());
    }
    Err(senseless(&format!("message {expected} is missing"), id))
}

fn session(row: &Row<'_>, id: &str) -> Result<Session, Unreadable> {
    let instance: String = row.get("instance")?;
    let instance = InstanceId::parse(&instance).map_err(|bad| senseless(&bad.to_string(), id))?;
    let owner: String = row.get("owner")?;
    let closed: (Option<i64>, Option<String>) = (row.get("closed_ms")?, row.get("closed_reason")?);
    let spoken: Option<i64> = row.get("spoken")?;
    Ok(Session {
        terms: Arc::new(terms(row, id)?),
        token: Hash(row.get("token")?),
        instance,
        epoch: Epoch::new(unsigned(row.get("epoch")?)),
        owner: Owner::new(&owner),
        state: match closed {
            (Some(at_ms), Some(reason)) => State::Closed {
                reason: reason.into(),
                at_ms: unsigned(at_ms),
            },
            _ => State::Open,
        },
        spoken: spoken.map(|epoch| Epoch::new(unsigned(epoch))),
        gone: Gone {
            first: later(row, "gone_first")?,
            last: later(row, "gone_last")?,
            since: later(row, "gone_since")?,
        },
        gone_posts: Gone {
            first: later(row, "gone_posts_first")?,
            last: later(row, "gone_posts_last")?,
            since: later(row, "gone_posts_since")?,
        },
        to_instance: Counters::default(),
        to_client: Counters::default(),
    })
}

/// A column that an older file does not have: nothing stands there yet.
fn later(row: &Row<'_>, name: &str) -> Result<u64, rusqlite::Error> {
    match row.get(name) {
        Err(rusqlite::Error::InvalidColumnName(_)) => Ok(0),
        value => value.map(unsigned),
    }
}

fn terms(row: &Row<'_>, id: &str) -> Result<Terms, Unreadable> {
    let text = |name: &str| row.get::<_, String>(name);
    let spawn_key: Option<String> = row.get("spawn_key")?;
    let request: Option<[u8; 32]> = row.get("spawn_request")?;
    let hash_key: Option<String> = row.get("hash_key")?;
    let json = |error: serde_json::Error| senseless(&error.to_string(), id);
    let unknown = |what: &str| senseless(&format!("`{what}` is not known"), id);
    Ok(Terms {
        id: SessionId::parse(id).map_err(|bad| senseless(&bad.to_string(), id))?,
        caller: text("caller")?,
        spawn: spawn_key.zip(request).map(|(key, request)| SpawnKey {
            key,
            request: Hash(request),
        }),
        targets: serde_json::from_str(&text("targets")?).map_err(json)?,
        selection: match (text("selection")?.as_str(), hash_key) {
            ("balanced", None) => Policy::Balanced,
            ("ordered", None) => Policy::Ordered,
            ("hash", Some(key)) => Policy::Hash(key),
            (other, _) => return Err(unknown(other)),
        },
        loss_policy: match text("loss_policy")?.as_str() {
            "fail" => LossPolicy::Fail,
            "reassign" => LossPolicy::Reassign,
            "replay" => LossPolicy::Replay,
            other => return Err(unknown(other)),
        },
        durability: match text("durability")?.as_str() {
            "durable" => Durability::Durable,
            "none" => Durability::None,
            other => return Err(unknown(other)),
        },
        labels: serde_json::from_str(&text("labels")?).map_err(json)?,
        idle_ttl: duration(row.get("idle_ttl_ms")?),
        lifetime: row.get::<_, Option<i64>>("lifetime_ms")?.map(duration),
        created_ms: unsigned(row.get("created_ms")?),
    })
}

/// What the columns of a reply are.
pub(super) fn reply_columns(reply_to: ReplyTo) -> (Option<&'static str>, u64, u64) {
    match reply_to {
        ReplyTo::Nothing => (None, 0, 0),
        ReplyTo::Stream { position, seq } => (Some("stream"), position, seq),
        ReplyTo::Post { position } => (Some("post"), position, 0),
        ReplyTo::Unknown { position } => (Some("unknown"), position, 0),
    }
}

/// What the columns of a reply mean.
pub(super) fn reply_to(kind: Option<&str>, position: u64, seq: u64) -> ReplyTo {
    match kind {
        None => ReplyTo::Nothing,
        Some("stream") => ReplyTo::Stream { position, seq },
        Some("post") => ReplyTo::Post { position },
        Some(_) => ReplyTo::Unknown { position },
    }
}
