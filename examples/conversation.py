"""What an instance keeps of one session, so that it applies each message once and none of its own is lost.

Kept in memory, this lasts as long as the process. To apply each message once beyond that, store it together with
what the messages change.
"""

from openclaw.instance.v1 import instance_pb2 as pb


class Stale(Exception):
    """The epoch is over: another call takes part in the session."""


class Gap(Exception):
    """Messages are missing."""


class Conversation:
    def __init__(self):
        self.spawned = (0, 0)
        self.epoch = 0
        self.applied = 0  # seq of the last message that was applied
        self.skipped = 0  # messages up to here do not come any more
        self.answered = 0  # messages up to here have been answered, perhaps by another instance
        self.said = 0  # seq of the last message of ours
        self.kept = []  # messages of ours that are not acknowledged yet
        self.acknowledged = 0
        self.state = None  # of the application; void with the session

    def open(self, open):
        """Begins an epoch; what to say first, and then what to say again."""
        spawned = (open.spawn_time.seconds, open.spawn_time.nanos)
        if (spawned, open.epoch) <= (self.spawned, self.epoch):
            raise Stale(f"the last epoch seen is {self.epoch}")
        if self.spawned < spawned:
            self.__init__()
            self.spawned = spawned
        if self.epoch < open.received_epoch:
            self.kept = []  # another instance has spoken since
        self.skipped = open.next_seq - 1
        self.kept = [data for data in self.kept if data.seq > open.received_through]
        self.said = open.received_through + len(self.kept)
        for seq, data in enumerate(self.kept, start=open.received_through + 1):
            data.seq = seq
        self.epoch, self.answered, self.acknowledged = open.epoch, open.answered_through, 0
        opened = pb.SessionOpened(received_through=self.applied)
        again = [pb.SessionResponse(data=data) for data in self.kept]
        return [pb.SessionResponse(opened=opened), *again, *self.due()]

    def check(self, epoch):
        """Refuses what comes under an epoch that is over."""
        if epoch != self.epoch:
            raise Stale(f"the last epoch seen is {self.epoch}")

    def is_next(self, data):
        """Whether to apply a message, and say what there is to say to it, before anything else is waited for: a call
        may be cut at each wait, and the message counts as applied. False when that was done before."""
        if data.seq <= self.applied:
            return False
        expected = max(self.applied, self.skipped) + 1
        if data.seq != expected:
            raise Gap(f"message {expected} is missing")
        self.applied = data.seq
        return True

    def say(self, payload, in_reply_to=0):
        """A message of ours; empty when it answers what was answered before."""
        if 0 < in_reply_to <= self.answered:
            return []
        self.said += 1
        data = pb.SessionData(seq=self.said, in_reply_to=in_reply_to, payload=payload)
        self.kept.append(data)
        return [pb.SessionResponse(data=data)]

    def taken(self, through):
        """Messages of ours were taken."""
        self.kept = [data for data in self.kept if data.seq > through]

    def due(self):
        """The acknowledgement that is due: of what was applied and whose answers were taken."""
        unanswered = [data.in_reply_to for data in self.kept if data.in_reply_to]
        through = min([self.applied, *(seq - 1 for seq in unanswered)])
        if through <= self.acknowledged:
            return []
        self.acknowledged = through
        return [pb.SessionResponse(ack=pb.SessionAck(through=through))]
