"""The charts of the pages for notebooks and files: of an audit, of one neuron, and of what changed between checkpoints.

from neuronlens import NeuronCard, figures

figures.effects("audits/example")                                       # a notebook shows the Altair chart
figures.histograms(NeuronCard.read("audits/example", "resid_post.3", 117)).save("neuron.svg")
figures.changes("comparisons/one--two")
"""

from neuronlens.figures.between import changes as changes
from neuronlens.figures.between import drawings_between as drawings_between
from neuronlens.figures.between import gates as gates
from neuronlens.figures.between import moved_neurons as moved_neurons
from neuronlens.figures.between import moved_ranges as moved_ranges
from neuronlens.figures.between import trends as trends
from neuronlens.figures.neurons import activations as activations
from neuronlens.figures.neurons import histogram as histogram
from neuronlens.figures.neurons import histograms as histograms
from neuronlens.figures.neurons import quantile_plot as quantile_plot
from neuronlens.figures.results import concepts as concepts
from neuronlens.figures.results import cost as cost
from neuronlens.figures.results import drawings as drawings
from neuronlens.figures.results import effects as effects
from neuronlens.figures.results import figures_of as figures_of
from neuronlens.figures.results import frontier as frontier
from neuronlens.figures.results import heatmap as heatmap
from neuronlens.figures.results import methods as methods
