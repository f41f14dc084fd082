"""How a new revision of an endpoint takes the place of the stable one.

::

    Progressing ──promote──▶ Promoted ──rollback──▶ RolledBack
         └───────────────rollback──────────────────────▲

While it progresses all replicas of the stable revision stay (but in a rolling one), so that a
rollback costs nobody a request. Once it is decided, the replicas of the other revision leave as in
any rolling replacement. A canary decides itself, by the requests it gets; a blue-green one is
promoted when the old revision has been kept for long enough; a shadow waits for a person. A
revision whose replicas keep ending, or never answer, is rolled back, but for a rolling one: there
it waits, and the old ones serve on.
"""
