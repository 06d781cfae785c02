"""What mwactl asks before a model is built. Nothing here imports torch: listing backbones should be quick."""

from mwactl.backbone.spec import BackboneSpec

NAME = "my-encoder"
# Of weights that are published: `files=(OfficialFile(tag, filename, url, sha256),)` and `default_weights=tag` besides.
SPEC = BackboneSpec(NAME, family=NAME, model=NAME, licence="Apache-2.0", summary="0.4 M, 64 px")


class Plugin:
    family = NAME

    def specs(self):
        return [SPEC]

    def parse(self, name):
        """Give the spec of a name that is not in `specs`, such as `my-encoder:local-dir:FOLDER`; there is none yet."""

    def build(self, spec, weights):
        from my_encoder.backbone import build

        return build(spec, weights)

    def build_without_weights(self, spec):
        from my_encoder.backbone import build_without_weights

        return build_without_weights(spec)

    def pull(self, spec, source, reporter):
        from mwactl.backbone.store import pull

        return pull(spec, source, reporter)


plugin = Plugin()
