//! The names on Redis.

/// Every key and channel of this chapter.
#[derive(Debug, Clone)]
pub struct KeyNames {
    /// First word of every name.
    pub prefix: String,
}

impl Default for KeyNames {
    fn default() -> Self {
        Self { prefix: "weather".into() }
    }
}

impl KeyNames {
    /// Name of the stream of jobs.
    pub fn jobs(&self) -> String {
        format!("{}:jobs:v1", self.prefix)
    }

    /// Name of the stream of jobs that failed for good. A script moves a job from one stream to the
    /// other, so Redis Cluster must keep both on one server. It chooses the server by the part of a
    /// name in braces, or else by the whole name.
    pub fn dead_letters(&self) -> String {
        format!("{{{}}}:dead", self.jobs())
    }

    /// Name of the channel for readings; `what` is `<station>:<metric>` or a pattern.
    pub fn readings(&self, what: &str) -> String {
        format!("{}:readings:{what}", self.prefix)
    }

    /// Name of the channel for `record` requests.
    pub fn requests(&self) -> String {
        format!("{}:record:v1", self.prefix)
    }

    /// The beginning of the name of each client's channel for replies.
    pub fn replies(&self) -> String {
        format!("{}:reply:", self.prefix)
    }
}
