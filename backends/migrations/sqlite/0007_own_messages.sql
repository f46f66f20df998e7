-- Whether a message is one of ours: the platform may push what a bot sent as if a person had written it. Asked about every
-- message that arrives and about every plan.
CREATE INDEX actions_by_message ON actions (message_id) WHERE message_id IS NOT NULL;
