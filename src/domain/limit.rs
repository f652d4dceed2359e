//! Every bound of the program, by name. Bounds that lean on each other are checked when this compiles.

use std::time::Duration;

/// Instances in the fleet, those of the config and registered ones together.
pub const FLEET_MAX: usize = 10_000;
/// In a fleet of more than these, what changes at the same time is shown together.
pub const FLEET_SHOWN_AT_ONCE_MAX: usize = 256;
/// How much later what a probe or a call has changed is then shown, at most.
pub const VIEW_BEHIND_MAX: Duration = Duration::from_millis(20);
/// Targets of one fan-out.
pub const FANOUT_TARGETS_MAX: usize = 4096;
/// Target expressions of one request.
pub const EXPRESSIONS_MAX: usize = 4096;
/// Bytes of one target expression.
pub const EXPRESSION_BYTES_MAX: usize = 16 * 1024;
/// Ids that the targets of one request may span, holes and repetitions included.
pub const RANGE_SPAN_MAX: u64 = 65_536;
/// Bytes of an instance id. It is also a label and a file name, hence the limit of DNS.
pub const ID_BYTES_MAX: usize = 63;

/// A message that comes in at the front door, and one that leaves by it.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A message that a client of ours takes from an orchestrator, and the payload that it reads.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Encoded results in the summary of a fan-out with `aggregate`.
pub const AGGREGATE_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 1024 * 1024;
/// An instance's answer that can leave by the front door, inside its envelope.
pub const ANSWER_PASSED_ON_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;
/// Nested messages in a payload. Runtimes refuse more than 100 levels, and our own envelopes need three.
pub const PAYLOAD_DEPTH_MAX: usize = 94;
/// A payload of a session up to this is copied when it is kept: connections are read into buffers of this size and more,
/// and a slice of one holds on to all of it.
pub const PAYLOAD_COPIED_BYTES_MAX: usize = 16 * 1024;
/// Entries, and bytes of names and values, of the metadata of one task.
pub const METADATA_ENTRIES_MAX: usize = 64;
/// Bytes of all names and values of the metadata of one task.
pub const METADATA_BYTES_MAX: usize = 8 * 1024;
/// Characters of a failure's message that reach a caller.
pub const FAILURE_DETAIL_CHARS_MAX: usize = 300;

/// Tries of one task, the first included, whatever its caller asks for.
pub const ATTEMPTS_MAX: u32 = 5;
/// Bytes of the key of selection HASH.
pub const HASH_KEY_BYTES_MAX: usize = 1024;
/// Answers that must have come before it is known how long they usually take.
pub const HEDGE_SAMPLES_MIN: u32 = 100;
/// As many of them as may be asked for.
pub const HEDGE_SAMPLES_ASKED_MAX: u32 = 500;
/// Tokens of a budget, and tokens a second, that may be asked for.
pub const BUDGET_TOKENS_ASKED_MAX: u64 = 1_000_000;
/// Characters of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Calls with an idempotency key that are remembered, running ones and outcomes together.
pub const IDEMPOTENCY_ENTRIES_MAX: usize = 10_000;
/// Bytes of all outcomes that are remembered for idempotency keys.
pub const IDEMPOTENCY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long the outcome of a call with an idempotency key is remembered.
pub const IDEMPOTENCY_KEPT_FOR: Duration = Duration::from_secs(600);
/// Calls that wait until an instance is ready.
pub const READY_WAITING_MAX: usize = 1024;
/// How often a call that waits looks at the fleet, at most: a fleet in turmoil changes much more often.
pub const READY_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long it does not look, at most: some things change with time alone.
pub const READY_LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Legs of a fan-out that are dispatched before arrivals get a turn.
pub const FANOUT_WAVE: usize = 32;
/// Legs of the first such wave; each one after it has twice as many, up to `FANOUT_WAVE`.
pub const FANOUT_WAVE_FIRST: usize = 4;
/// Events of one fan-out that wait for their reader.
pub const EVENTS_QUEUED_MAX: usize = 64;
/// Bytes of events of one fan-out that wait for their reader; one event always fits.
pub const EVENT_BYTES_QUEUED_MAX: usize = 1024 * 1024;
/// How long one event waits for its reader before the call is given up.
pub const READER_STUCK_MAX: Duration = Duration::from_secs(30);

/// How long the outcomes that are left, and the summary, may wait for their reader once a fan-out is over.
pub const CLOSE_MAX: Duration = Duration::from_secs(60);

/// Deadline of a Route that names none.
pub const ROUTE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);
/// Deadline of a Fanout that names none.
pub const FANOUT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// What anybody else says that lasts longer counts as this. It is longer than anything here, and may be added to any
/// instant: two are within what a clock can hold.
pub const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The longest deadline.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// How long a unary request may take to arrive whole when it names no deadline.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// The same at the REST door, where people and slow scripts call.
pub const REST_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// What is read of a body that is too large, so that its sender gets to hear why it is refused.
pub const BODY_DRAINED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How long an answer may wait for its reader to take the next piece of it.
pub const STREAM_IDLE_MAX: Duration = Duration::from_secs(300);
/// What an answer hands to its connection at once.
pub const ANSWER_PIECE_BYTES: usize = 64 * 1024;
/// An answer that leaves whole, even when memory is short; also what a larger one keeps back until there is
/// room for the rest of it.
pub const ANSWER_SMALL_BYTES: usize = 4 * 1024;
/// When to come again after memory was full.
pub const MEMORY_PUSHBACK: Duration = Duration::from_secs(1);

/// Calls that run at once, over all callers.
pub const CALLS_IN_FLIGHT_DEFAULT: u32 = 10_000;
/// Legs of all fan-outs that run at once.
pub const LEGS_IN_FLIGHT_DEFAULT: u32 = 100_000;
/// Calls that wait for their turn.
pub const CALLS_WAITING_DEFAULT: u32 = 2000;
/// Calls, and calls a second, that may be asked for.
pub const CALLS_ASKED_MAX: u64 = 10_000_000;
/// Shortest pause that a call is told to make that was not let in.
pub const PUSHBACK_MIN: Duration = Duration::from_millis(50);
/// Longest pause that a call is told to make that was not let in.
pub const PUSHBACK_MAX: Duration = Duration::from_secs(10);
/// Least memory for messages that may be asked for: several of the largest.
pub const BUFFERED_BYTES_MIN: u64 = 8 * MESSAGE_BYTES_MAX as u64;
/// Bytes of messages that are held at once, where the memory of the machine is not known.
pub const BUFFERED_BYTES_DEFAULT: usize = 1024 * 1024 * 1024;

/// Shortest lease of a registered instance.
pub const LEASE_MIN: Duration = Duration::from_secs(5);
/// Longest lease of a registered instance.
pub const LEASE_MAX: Duration = Duration::from_secs(600);
/// Lease of a registration that names none.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// Labels of one instance.
pub const LABELS_MAX: usize = 32;
/// Bytes of one label's name or value.
pub const LABEL_BYTES_MAX: usize = 256;
/// Weight of an instance.
pub const WEIGHT_MAX: u32 = 1000;
/// Instances on one page of a listing.
pub const PAGE_MAX: usize = 1000;
/// Encoded instances on one page of a listing.
pub const PAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;
/// Characters of the reason of a state of health.
pub const HEALTH_REASON_CHARS_MAX: usize = 200;
/// Probes that begin at once.
pub const PROBES_AT_ONCE_MAX: usize = 256;
/// How long a probe counts as beginning. Those that wait for silent instances do not hold up the others; a shorter
/// time would let too many connect at once.
pub const PROBE_PERMIT_HELD_MAX: Duration = Duration::from_millis(500);
/// Health watchers at once.
pub const WATCHERS_MAX: usize = 1000;

/// Connections to one instance for calls.
pub const LINKS_PER_INSTANCE_MAX: usize = 4;
/// Calls on one connection to an instance.
pub const LINK_STREAMS_MAX: usize = 1000;
/// How often a call that waits for room on the connections to an instance looks for it unasked: the peer may take more
/// streams than it said at first, of which nothing is heard.
pub const STREAM_ROOM_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Connections to an instance that turn out to be gone before a call gives up.
pub const CONNECTIONS_STALE_MAX: usize = 3;
/// Connections to one instance for sessions, beside those for calls.
pub const SESSION_LINKS_PER_INSTANCE_MAX: usize = 16;
/// Sessions on one connection to an instance.
pub const SESSION_LINK_STREAMS_MAX: usize = 1000;
/// Sessions that a built-in instance remembers: as many as can be held with it at once.
pub const BUILTIN_SESSIONS_MAX: usize = SESSION_LINKS_PER_INSTANCE_MAX * SESSION_LINK_STREAMS_MAX;
/// Connecting to an instance, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one address of an instance is waited for before the next is tried beside it.
pub const CONNECT_NEXT_AFTER: Duration = Duration::from_millis(250);
/// Flow-control window of one stream from an instance.
pub const LINK_STREAM_WINDOW: u32 = 1024 * 1024;
/// Flow-control window of one connection from an instance.
pub const LINK_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Flow-control window of the stream of one session from an instance.
pub const SESSION_LINK_STREAM_WINDOW: u32 = 64 * 1024;
/// Flow-control window of one connection that holds sessions, from an instance.
pub const SESSION_LINK_CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
/// Header list, at both doors.
pub const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Silence after which the system asks the host of an instance whether it is still there. TCP's own keep-alive: other
/// than a PING of HTTP/2 no peer punishes it, so that it may come often.
pub const LINK_TCP_KEEPALIVE_AFTER: Duration = Duration::from_secs(20);
/// How often it asks again.
pub const LINK_TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the host of an instance may take to acknowledge what it was sent, keep-alive included (RFC 5482): with both, a
/// connection into a black hole is over after 35 s at most, and 15 s after something was sent.
pub const LINK_TCP_UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);
/// How often a connection to an instance is tested when nothing else does. Peers may punish more.
pub const LINK_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(300);
/// How long an instance may take to answer that test.
pub const LINK_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections to one instance over HTTP/1.1, each of which holds one call; further calls wait. A probe has its own.
pub const HTTP_CONNECTIONS_PER_INSTANCE_MAX: usize = 256;
/// Connections to one instance over HTTP/1.1 that are kept while they have nothing to do.
pub const HTTP_IDLE_PER_INSTANCE_MAX: usize = 32;
/// How long one is kept. Common servers close theirs after 5 s, and a task that crosses with that may have begun.
pub const HTTP_IDLE_FOR_MAX: Duration = Duration::from_secs(4);
/// Bytes of the path to which an instance takes its tasks over HTTP.
pub const HTTP_PATH_BYTES_MAX: usize = 1024;
/// What is read of a failure's own words, and of the answer to a probe, over HTTP.
pub const HTTP_WORDS_BYTES_MAX: usize = 16 * 1024;
/// How long the words of a failure are waited for once its status has come.
pub const HTTP_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// Addresses that one host name may resolve to.
pub const ADDRESSES_PER_NAME_MAX: usize = 16;

/// Bytes of the id of a session.
pub const SESSION_ID_BYTES_MAX: usize = 128;
/// Sessions that the store remembers, closed ones included.
pub const SESSIONS_MAX: usize = 200_000;
/// Messages of one session and one direction that are not acknowledged.
pub const UNACKNOWLEDGED_MAX: usize = 1000;
/// Bytes of these messages; one message always fits.
pub const UNACKNOWLEDGED_BYTES_MAX: usize = 1024 * 1024;
/// Acknowledged messages of one direction that are kept so that a repeated one is recognised. Up to twice as many
/// are there for a while, so that they are removed some at a time.
pub const SETTLED_KEPT: usize = 32;
/// Bytes of these messages, likewise.
pub const SETTLED_KEPT_BYTES: usize = 16 * 1024;
/// Acknowledged messages that are kept for the policy REPLAY, and replies to posts that wait for an older message
/// to be acknowledged.
pub const HELD_MAX: usize = 10_000;
/// Bytes of these messages.
pub const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Posts of one session whose keys are remembered, with their replies.
pub const POSTS_REMEMBERED_MAX: usize = 1000;
/// Bytes of these replies; the last one is always kept.
pub const POST_BYTES_REMEMBERED_MAX: usize = 1024 * 1024;
/// Frames that wait for the client of a session to read them.
pub const SESSION_FRAMES_QUEUED_MAX: usize = 64;
/// Bytes of these; one message always fits.
pub const SESSION_FRAME_BYTES_QUEUED_MAX: usize = 256 * 1024;
/// Calls that wait for the task of one session.
pub const SESSION_COMMANDS_QUEUED_MAX: usize = 256;
/// Calls that wait for what was posted to one session.
pub const SESSION_POSTS_WAITING_MAX: usize = 1000;
/// Posts of one session whose keys are known while it is held, before the store is asked; beside those that are not
/// stored yet.
pub const SESSION_POSTS_KNOWN_MAX: usize = 64;
/// How long the reply to a post is remembered under its key.
pub const POSTS_REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Silence on a session's stream after which an acknowledgement is repeated.
pub const SESSION_SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long an instance may take to take a session.
pub const SESSION_OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// An opening that is given up after so long without an answer speaks against its connection: the next one gets another.
pub const SESSION_OPEN_DOUBT: Duration = Duration::from_secs(9);
/// How long an instance that has lost a session may take to come back before the session's policy decides.
pub const SESSION_REATTACH_GRACE: Duration = Duration::from_secs(10);
/// The same, counted from the start of the orchestrator: registered instances have to register again.
pub const SESSION_RECOVERY_GRACE: Duration = Duration::from_secs(45);
/// Shortest wait between two tries to open a session.
pub const SESSION_REOPEN_DELAY_MIN: Duration = Duration::from_millis(50);
/// Longest wait between two tries to open a session.
pub const SESSION_REOPEN_DELAY_MAX: Duration = Duration::from_secs(2);
/// How often in a row an instance may take a session and lose it before anything comes of it, until the session's
/// policy decides.
pub const SESSION_FRUITLESS_MAX: u32 = 8;
/// Longest wait between two of these openings.
pub const SESSION_FRUITLESS_DELAY_MAX: Duration = Duration::from_secs(30);
/// How long an instance holds a session before its loss has nothing to do with how it was opened.
pub const SESSION_STEADY_AFTER: Duration = Duration::from_secs(10);
/// How long a session whose messages find no room in the store waits until it tries again, at first.
pub const SESSION_PARKED_MIN: Duration = Duration::from_millis(250);
/// The same, at most.
pub const SESSION_PARKED_MAX: Duration = Duration::from_secs(2);
/// How long a session without any instance to go to waits until it looks again by itself.
pub const SESSION_WAIT_FOR_INSTANCE: Duration = Duration::from_secs(5);
/// How long the client of a session that has ended may take to acknowledge what it was sent last.
pub const SESSION_CLOSE_WAIT: Duration = Duration::from_secs(5);
/// How long a session may stand still because its client sends and sends and acknowledges nothing, until the client is
/// told.
pub const SESSION_STALLED_MAX: Duration = Duration::from_secs(30);
/// How long an instance that is drained may take to finish what it was sent of a session, before the session moves.
pub const SESSION_MOVE_WAIT: Duration = Duration::from_secs(10);
/// Bytes that are read at once from the log of a session that is replayed.
pub const SESSION_REPLAY_READ_BYTES: usize = 256 * 1024;
/// Sessions that are read at once when the orchestrator starts.
pub const SESSION_PAGE_READ: usize = 1000;
/// Instances that are told at once of the end of a session that they were not asked to go on with since the
/// orchestrator has started.
pub const SESSION_LAST_WORDS_AT_ONCE: usize = 64;
/// Those among them that are told or wait for it; beyond that nobody is told.
pub const SESSION_LAST_WORDS_MAX: usize = 4096;
/// How long after its end one may still begin to be told so.
pub const SESSION_LAST_WORDS_WITHIN: Duration = Duration::from_secs(60);
/// Sessions whose time is looked at without letting go of the list of sessions.
pub const SESSIONS_LOOKED_AT_ONCE: usize = 256;
/// Sessions that ended long ago which the store is asked to forget at once: what they take of its queue, and how many
/// share one sync.
pub const SESSIONS_FORGOTTEN_AT_ONCE: usize = 64;
/// Silence on a stream of events after which a comment is sent: proxies cut streams on which nothing moves.
pub const EVENTS_SILENCE_MAX: Duration = Duration::from_secs(15);
/// Idle TTL of a session that names none.
pub const SESSION_IDLE_TTL_DEFAULT: Duration = Duration::from_secs(300);
/// The buffers, one for each direction, of a session's stream between two messages.
pub const SESSION_CODEC_BUFFER_BYTES: usize = 256;
/// Connections to the operator's port.
pub const ADMIN_CONNECTIONS_MAX: usize = 16;
/// How long a request to the operator's port may take to send its headers, and the next one to begin.
pub const ADMIN_HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to say which session it attaches to.
pub const SESSION_HELLO_TIMEOUT: Duration = Duration::from_secs(15);
/// A call that begins, shows, lists or acknowledges sessions and says nothing of its time.
pub const SESSION_CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of the target expressions of one session, which are kept with it.
pub const SESSION_TARGET_BYTES_MAX: usize = 4096;
/// Shortest idle TTL and lifetime.
pub const SESSION_TTL_MIN: Duration = Duration::from_secs(1);
/// Longest idle TTL and lifetime.
pub const SESSION_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes of an idempotency key.
pub const SESSION_KEY_BYTES_MAX: usize = 128;
/// Calls that wait for the store.
pub const STORE_QUEUE_MAX: usize = 1024;
/// Batches of them that are carried out and not answered yet; then the next one waits.
pub const STORE_BATCHES_UNANSWERED_MAX: usize = 2;
/// Bytes of the messages of these calls; one call always fits.
pub const STORE_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Fewest bytes of one direction of a session that a bound may allow.
pub const UNACKNOWLEDGED_BYTES_MIN: u64 = 4 * 1024;
/// Fewest bytes of all sessions that a journal may be allowed.
pub const STORE_BYTES_MIN: u64 = 16 * MESSAGE_BYTES_MAX as u64;
/// Most bytes of all sessions that a journal may be allowed.
pub const STORE_BYTES_ASKED_MAX: u64 = 1 << 40;
/// Bytes of all sessions that the journal keeps for somebody. What both sides have settled, and what is kept a little
/// longer so that a repeated message is recognised, is bounded for each session and not counted here.
pub const STORE_BYTES_MAX: usize = 4 * 1024 * 1024 * 1024;
/// One part in so many of a store is kept free for what instances say, so that a store that is full of messages for
/// them can become empty again.
pub const STORE_SHARE_OF_ANSWERS: usize = 4;
/// Bytes of the journal's disk that are kept for what instances say, and for acknowledgements; on a small disk one part in
/// so many of it (`JOURNAL_RESERVE_SHARE`).
pub const JOURNAL_RESERVE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// One part in so many of a small disk.
pub const JOURNAL_RESERVE_SHARE: u64 = 4;
/// Messages of one call to the store.
pub const APPEND_MAX: usize = UNACKNOWLEDGED_MAX;

/// Keys of the config.
pub const KEYS_MAX: usize = 1000;
/// How long a key may outlive its date when the wall clock jumps.
pub const KEY_LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How long a stream whose key is accepted no more may take to tell its reader so, before it is reset.
pub const REVOKED_STREAM_END_MAX: Duration = Duration::from_secs(3);
/// Bytes of the config file.
pub const CONFIG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How often the config, and what it points to, is looked at for changes.
pub const CONFIG_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of the name of a key.
pub const KEY_NAME_BYTES_MAX: usize = 128;
/// Bytes of a file that holds the token of an instance. It must fit into a header list.
pub const CREDENTIAL_BYTES_MAX: u64 = 8 * 1024;
/// How often the certificates of the front door are looked at.
pub const CERTIFICATES_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a connection may outlive its certificate when the wall clock jumps.
pub const CERTIFICATE_END_LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How long before its end it is told that a certificate, or a revocation list, was not renewed.
pub const TERM_WARNING: Duration = Duration::from_secs(24 * 3600);
/// What TLS keeps of one connection, at most: what it has read and not passed on, and the same the other way round.
pub const TLS_BYTES_MAX: u64 = 128 * 1024;
/// Lines about failed handshakes in one interval; the next line says how many were left out.
pub const HANDSHAKE_LINES_MAX: u32 = 10;
/// Lines about failed tries, and about targets that take no work, in one interval.
pub const DELEGATION_LINES_MAX: u32 = 100;
/// The interval over which such lines are counted.
pub const LINES_INTERVAL: Duration = Duration::from_secs(10);
/// Names in one caller's certificate. With more of them it names nobody.
pub const CERTIFICATE_NAMES_MAX: usize = 64;
/// Bytes of a SPIFFE ID (SPIFFE-ID, 2.3).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;
/// Callers of the config that are known by a certificate.
pub const IDENTITIES_MAX: usize = 10_000;
/// Bytes of a file of certificates or of a key.
pub const PEM_BYTES_MAX: u64 = 1024 * 1024;
/// Origins of pages that the config allows, and names of headers that it lets them send.
pub const CORS_ENTRIES_MAX: usize = 100;
/// How long a browser may remember what a page may do; none of them does so for longer.
pub const CORS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Networks of one list in the config.
pub const NETWORKS_MAX: usize = 1000;
/// Connections at the front door that may be asked for.
pub const CONNECTIONS_MAX: u64 = 1_000_000;
/// Concurrent calls of one connection that may be asked for.
pub const CONNECTION_STREAMS_MAX: u64 = 10_000;
/// Smallest flow-control window that may be asked for: the one HTTP/2 starts with.
pub const WINDOW_MIN: u64 = 65_535;
/// Largest flow-control window of HTTP/2.
pub const WINDOW_MAX: u64 = 0x7fff_ffff;
/// Probes in a row that may be asked for until a state changes.
pub const PROBES_IN_A_ROW_MAX: u64 = 1000;
/// The longest time that a setting may name; what is jittered or added to a clock must not overflow.
pub const SETTING_TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Characters of an `x-request-id` that is taken over.
pub const REQUEST_ID_CHARS_MAX: usize = 128;
/// Bytes of a path that a span tells.
pub const SPAN_PATH_BYTES_MAX: usize = 256;
/// Bytes of all `tracestate` of a call that are handed on; W3C Trace Context asks for 512.
pub const TRACESTATE_BYTES_MAX: usize = 1024;
/// Members of all `tracestate` of a call together, empty ones among them (W3C Trace Context, 3.3.1.1).
pub const TRACESTATE_MEMBERS_MAX: usize = 32;
/// Bytes of all `baggage` of a call that are handed on: what W3C Baggage asks for.
pub const BAGGAGE_BYTES_MAX: usize = 8192;
/// Bytes of all B3 headers of a call that are handed on.
pub const B3_BYTES_MAX: usize = 256;
/// Headers about traces that are handed on, those of all kinds together.
pub const TRACE_HEADERS_MAX: usize = 32;
/// Spans that have ended and are not yet with their collector.
pub const TRACE_SPANS_QUEUED_MAX: usize = 4096;
/// Spans that are sent together, and without waiting for more.
pub const TRACE_BATCH_SPANS: usize = 512;
/// How long a span waits for others to be sent with.
pub const TRACE_BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How often a batch is sent before it is dropped.
pub const TRACE_SENDS_MAX: usize = 5;
/// The pause after the first time; it doubles.
pub const TRACE_BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest pause between two of these.
pub const TRACE_BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long after the first time a batch may be sent again.
pub const TRACE_SENDS_WITHIN: Duration = Duration::from_secs(20);
/// How long a stop waits for the last spans to leave.
pub const TRACE_FLUSH_MAX: Duration = Duration::from_secs(2);
/// Headers that a collector is sent.
pub const TRACE_COLLECTOR_HEADERS_MAX: usize = 16;
/// Bytes of the name that a service has in traces.
pub const TRACE_SERVICE_BYTES_MAX: usize = 255;

// Each member of a state may stand in a header of its own.
const _: () = assert!(TRACESTATE_MEMBERS_MAX <= TRACE_HEADERS_MAX);
// A batch does not wait for what is never let in.
const _: () = assert!(TRACE_BATCH_SPANS < TRACE_SPANS_QUEUED_MAX);
// What a collector takes in a message is 4 MiB where nobody says otherwise; beside these a span has some 500 bytes.
const _: () = assert!(
    TRACE_BATCH_SPANS
        * (TRACESTATE_BYTES_MAX + SPAN_PATH_BYTES_MAX + REQUEST_ID_CHARS_MAX + ID_BYTES_MAX + 500)
        < 4 * 1024 * 1024
);
// The largest fan-out fits many times into what may run.
const _: () = assert!(FANOUT_TARGETS_MAX * 16 <= LEGS_IN_FLIGHT_DEFAULT as usize);
// The whole fleet is within one request's reach.
const _: () = assert!(FLEET_MAX as u64 <= RANGE_SPAN_MAX);
// A roster cannot be larger than the fleet.
const _: () = assert!(FANOUT_TARGETS_MAX <= FLEET_MAX);
// A fan-out over a full roster must be writable one name each.
const _: () = assert!(FANOUT_TARGETS_MAX <= EXPRESSIONS_MAX);
// An aggregate must leave room for its envelope: the name of every target, twice.
const _: () =
    assert!(AGGREGATE_BYTES_MAX + 2 * FANOUT_TARGETS_MAX * (ID_BYTES_MAX + 16) < MESSAGE_BYTES_MAX);
// One stream may not fill the window that it shares.
const _: () = assert!(LINK_STREAM_WINDOW < LINK_CONNECTION_WINDOW);
// Sessions that are not read, all of them together, leave the others their window.
const _: () = assert!(
    SESSION_LINK_STREAMS_MAX as u64 * SESSION_LINK_STREAM_WINDOW as u64
        <= SESSION_LINK_CONNECTION_WINDOW as u64
);
// Whatever an orchestrator sends can be read.
const _: () = assert!(MESSAGE_BYTES_MAX <= ANSWER_BYTES_MAX);
// Whatever an instance answered can be remembered, and beside it the outcomes of others.
const _: () = assert!(ANSWER_PASSED_ON_BYTES_MAX * 4 <= IDEMPOTENCY_BYTES_MAX);
// Whatever may be asked for can still be joined for as long as its caller may wait.
const _: () = assert!(TIMEOUT_MAX.as_secs() <= IDEMPOTENCY_KEPT_FOR.as_secs());
// Waves shorter than the queue, so that one wave of refusals never blocks its own dispatch.
const _: () = assert!(FANOUT_WAVE < EVENTS_QUEUED_MAX);
// A token must leave room for the other headers of a call.
const _: () = assert!(CREDENTIAL_BYTES_MAX * 2 <= HEADER_LIST_BYTES_MAX as u64);
