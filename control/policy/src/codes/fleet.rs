//! Codes of the control plane: sources, revisions, what is sent to proxies.

use crate::codes::{
    COMMIT_UNTRUSTED, DOCUMENTS_TOGETHER, Entry, FILE_ABSENT, FILE_OUTSIDE, FILE_WRITTEN, FLEET_FILE,
    HISTORY_REWRITTEN, NAMESPACE_FOREIGN, SIGNERS, SOURCE_CONFLICT, SOURCE_LIMIT, SOURCE_LINK,
    SOURCE_UNREADABLE, SUBMODULE, entry,
};

pub(super) const OF_FLEET: &[Entry] = &[
    entry(
        SOURCE_CONFLICT,
        "Two sources hold different things under one name",
        "The files of all sources stand in one tree. Where two sources have a file of the same name and different content, or one has a file where the other has a folder, neither is more right than the other. What is below `secrets` stands at the top whatever `mount` says, and is renamed. Documents of the same kind, namespace and name in two files are FG0201.",
        "sources:\n- { name: edge, folder: { path: /etc/edge } }\n- { name: teams, folder: { path: /etc/teams } }",
        "sources:\n- { name: edge, folder: { path: /etc/edge } }\n- { name: teams, folder: { path: /etc/teams }, mount: teams }",
    ),
    entry(
        FILE_OUTSIDE,
        "A file lies outside of the policies",
        "A document that is sent to proxies takes the files along that it refers to. A relative path that leads out of the policies names none of them. An absolute path is looked for on the machine of every proxy, and is not sent.",
        "bundle: { path: ../../models/lead-score }",
        "bundle: { path: models/lead-score }",
    ),
    entry(
        FILE_ABSENT,
        "No source has the file that a document refers to",
        "Proxies would look for the file beside the document, or in `secrets`, and would refuse the policies. Secrets that do not belong into git come from a source of their own, such as a folder that is mounted into the control plane.",
        "jwks: { file: idp.jwks }   # and no such file in the repository",
        "jwks: { file: idp.jwks }   # with the file beside the policy",
    ),
    entry(
        FILE_WRITTEN,
        "A path that gateways write to is among the policies",
        "A feature store and its inbox belong to one machine. What a control plane sends is replaced as a whole with every change of policies, and with it what was written there.",
        "featureStore: { path: features.redb, key: { file: key } }",
        "featureStore: { path: /var/lib/foregate/features.redb, key: { file: key } }",
    ),
    entry(
        SOURCE_UNREADABLE,
        "A source of policies cannot be read",
        "The folder, the repository, or a file in it cannot be read. What was read before stays in force.",
        "git: { url: https://git.example.com/policies.git, branch: mian }",
        "git: { url: https://git.example.com/policies.git, branch: main }",
    ),
    entry(
        SOURCE_LIMIT,
        "A source of policies is too large",
        "Every source is bounded: by the size of all its files, by their number, by how deep folders are nested, and a pull by its time. `limits` of the source, and `git.timeout`, say how far.",
        "limits: { size: 1MiB }   # and a model of 8 MiB in the repository",
        "limits: { size: 32MiB }",
    ),
    entry(
        SOURCE_LINK,
        "A link leads out of its source",
        "A symbolic link in a source may lead to another file of the source, and nowhere else: whoever can write to a repository must not be able to have files of the control plane sent to proxies.",
        "edge.yaml -> /etc/foregate/control.yaml",
        "edge.yaml -> ../base/edge.yaml",
    ),
    entry(
        SUBMODULE,
        "A submodule is left out",
        "A submodule is a repository of its own, with a history that the signatures of the outer one do not cover. It is not pulled.",
        "[submodule \"teams/leads\"]",
        "sources:\n- { name: leads, git: { url: https://git.example.com/leads.git, branch: main }, mount: teams/leads }",
    ),
    entry(
        COMMIT_UNTRUSTED,
        "A commit is not signed by somebody who may",
        "Every commit between the one in force and the new one must bear an SSH signature by a key in the file of allowed signers, valid when the commit was made and still now: a date in a commit is what its author writes. Merges count like others. Without `allowedSigners`, `insecure: { unsignedCommits: true }` must say so.",
        "git commit -m 'leads: open the door'",
        "git -c gpg.format=ssh -c user.signingkey=key.pub commit -S -m 'leads: open the door'",
    ),
    entry(
        HISTORY_REWRITTEN,
        "The history was rewritten or went back",
        "The branch or tag does not follow the commit that was accepted last. A forced push, or a server that shows an old state, could bring back policies that were replaced for a reason. The commit accepted last is kept in the state folder; what is in force stays.",
        "git push --force origin main",
        "git revert HEAD && git push origin main",
    ),
    entry(
        NAMESPACE_FOREIGN,
        "A source holds documents of a namespace that is not its own",
        "`namespaces` of a source says which namespaces its documents may be in, so that a team changes its own policies only.",
        "# the source has namespaces: [leads]\nmetadata: { name: edge, namespace: platform }",
        "metadata: { name: edge, namespace: leads }",
    ),
    entry(
        DOCUMENTS_TOGETHER,
        "Two documents without `---` between them",
        "Documents are sent one by one, as the text between lines `---`. Where a document is ended by `...` alone, the next one stands in the same piece.",
        "kind: Upstream\n...\nkind: Policy",
        "kind: Upstream\n---\nkind: Policy",
    ),
    entry(
        SIGNERS,
        "The file of allowed signers cannot be used",
        "Each line is `PRINCIPALS [OPTIONS] TYPE KEY`, as in ssh-keygen(1). Options are `namespaces`, `valid-after` and `valid-before`, in UTC. Certificates of SSH (`cert-authority`) are not supported. A line that is not understood is a fault: it may be meant to bound somebody.",
        "ada@example.com verify-required ssh-ed25519 AAAA..",
        "ada@example.com namespaces=\"git\",valid-before=\"20270101\" ssh-ed25519 AAAA..",
    ),
    entry(
        FLEET_FILE,
        "What the control plane sent cannot be kept",
        "The folder of state is full or cannot be written, or what arrived is not what was announced: a path that leads out of the folder, a digest that differs, documents that overlap. Nothing of it is in force; what was before stays.",
        "foregate run --control https://control:8443 --state-dir /full",
        "foregate run --control https://control:8443 --state-dir /var/lib/foregate",
    ),
];
