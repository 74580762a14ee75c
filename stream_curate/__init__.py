"""stream-curate: curate a stream of image-text pairs so that it equals offline MetaCLIP."""

from stream_curate.curator import Curator
from stream_curate.final_curator import FinalCurator
from stream_curate.final_rule import FinalDecisions
from stream_curate.metadata import Metadata
from stream_curate.pairs import make_pairs

__version__ = "0.1.0"

__all__ = ["Curator", "FinalCurator", "FinalDecisions", "Metadata", "__version__", "make_pairs"]
